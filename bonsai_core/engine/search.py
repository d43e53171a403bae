"""A short search around the regression's answer, by measuring finished rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.job import Job
from bonsai_core.engine.plan import FINALISTS, FIRST_HEAT, OFFSPRING
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import MeasuringData, Round, Stream
from bonsai_core.engine.submodels import measure_submodels
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

    def utilities(name: str, keep_MU: Sequence[NDArray[np.bool_]], sample: MeasuringData) -> list[float]:
        return _utilities(job, round, name, np.stack(keep_MU), sample, repairs, ledger)

    best_U, (best,) = keep_U, utilities("start", [keep_U], everything)
    start, improved = best, 0
    for generation in range(job.config.search):
        text = f"search, generation {generation + 1} of {job.config.search}"
        ledger.begin(Stage.SEARCH, text, round.number)
        rng = round.rng(Stream.SEARCH, generation)
        offspring = [swaps.propose(best_U, int(rng.integers(1, MOST_SWAPS + 1)), rng) for _ in range(OFFSPRING)]
        heats = utilities(f"{generation}", offspring, little)
        finalists = [offspring[index] for index in np.argsort(heats, kind="stable")[::-1][:FINALISTS]]
        for child_U, reached in zip(finalists, utilities(f"{generation}-final", finalists, everything), strict=True):
            if reached > best:
                best_U, best, improved = child_U, reached, improved + 1
    numbers = {"search_start": start, "search_end": best, "search_improved": improved}
    return best_U, {name: None if np.isinf(number) else number for name, number in numbers.items()}


def _utilities(
    job: Job,
    round: Round,
    name: str,
    keep_MU: NDArray[np.bool_],
    sample: MeasuringData,
    repairs: Repairs,
    ledger: Ledger,
) -> list[float]:
    """Of the model as the round would leave it with these keep vectors; -inf where one is not finite."""
    metric, repair = job.methods.metric, repairs if job.methods.compensator.repairs else None

    def measure() -> Payload:
        if repair is not None:
            repair.prepare(keep_MU)
        batch = job.submodels_at_once(sample.data)
        parts = [keep_MU[first : first + batch] for first in range(0, len(keep_MU), batch)]
        return {"values": [value for part_MU in parts for value in measure_submodels(job, sample, part_MU, repair)]}

    step = round.step(f"search-{name}", len(keep_MU) * sample.data.num_tokens)
    values = ledger.once(step, measure)["values"]
    return [-np.inf if value is None else metric.utility(value) for value in values]
