"""A short search around the regression's answer, by measuring finished rounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.job import Job
from bonsai_core.engine.plan import FINALISTS, FIRST_HEAT, OFFSPRING
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import MeasuringData, Round, Stream
from bonsai_core.events import Stage
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.swaps import Swaps
from bonsai_core.selection.whole_drops import WholeDrops

MOST_SWAPS = 3


def refine(
    job: Job,
    round: Round,
    request: SampleRequest,
    drops: WholeDrops,
    importance_U: NDArray[np.float64],
    keep_U: NDArray[np.bool_],
    repairs: Repairs,
    ledger: Ledger,
) -> tuple[NDArray[np.bool_], Mapping[str, float | None]]:
    """Evolution by swaps of budget between sites, in tournaments over more and more text.

    Every generation swaps budget between a few sites, in the directions that cost least by the regression; all
    offspring are measured on a little text of the search's own, the best of them on all of it, and a finalist replaces
    the current best if it beats it. Sieberling et al. 2024 (EvoPress), arXiv:2410.14649; where we differ: the
    regression gives the start and proposes, and sub-models are measured as repaired.

    Args:
        request: the round's.
        drops: the round's wholes; those that the selection dropped stay dropped.
        importance_U, keep_U: the regression's answer, float64 [U] and bool [U].

    Returns:
        The best keep vector found, and numbers for the report.
    """
    assert round.search is not None
    left_U = drops.left_by(keep_U)
    swaps = Swaps(SelectionProblem(request.table, left_U, importance_U, request.prior_U, round.target, job.rules))
    everything = round.search
    num_windows = len(everything.data.windows_NT)
    little = everything.first(num_windows // FIRST_HEAT)

    def utility(name: str, candidate_U: NDArray[np.bool_], sample: MeasuringData) -> float:
        return _utility(job, round, name, candidate_U, sample, repairs, ledger)

    best_U, best = keep_U, utility("start", keep_U, everything)
    start, improved = best, 0
    for generation in range(job.config.search):
        text = f"search, generation {generation + 1} of {job.config.search}"
        ledger.begin(Stage.SEARCH, text, round.number)
        rng = round.rng(Stream.SEARCH, generation)
        offspring = [swaps.propose(best_U, int(rng.integers(1, MOST_SWAPS + 1)), rng) for _ in range(OFFSPRING)]
        heats = [utility(f"{generation}-{index}", child_U, little) for index, child_U in enumerate(offspring)]
        for index in np.argsort(heats, kind="stable")[::-1][:FINALISTS]:
            reached = utility(f"{generation}-{index}-final", offspring[index], everything)
            if reached > best:
                best_U, best, improved = offspring[index], reached, improved + 1
        repairs.keep_only(best_U)
    numbers = {"search_start": start, "search_end": best, "search_improved": improved}
    return best_U, {name: None if np.isinf(number) else number for name, number in numbers.items()}


def _utility(
    job: Job,
    round: Round,
    name: str,
    keep_U: NDArray[np.bool_],
    sample: MeasuringData,
    repairs: Repairs,
    ledger: Ledger,
) -> float:
    """Of the model as the round would leave it with this keep vector; -inf where it is not finite."""
    metric = job.methods.metric

    def measure() -> Payload:
        with repairs.applied(keep_U), torch.no_grad():
            value = float(metric.measure(sample.probe(job)))
        return {"value": value if np.isfinite(value) else None}

    value = ledger.once(round.step(f"search-{name}", sample.data.num_tokens), measure)["value"]
    return -np.inf if value is None else metric.utility(value)
