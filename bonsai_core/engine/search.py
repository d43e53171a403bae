"""The last word of a round: answers of the regression measured against each other, and a short search around the best.

All are measured as the round would leave the model, on data of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.job import Job
from bonsai_core.engine.plan import FINALISTS, FIRST_HEAT, OFFSPRING, answers_measured
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import Round, Stream
from bonsai_core.engine.workers import Workers
from bonsai_core.events import Stage
from bonsai_core.model.forward.probe import MeasuringData
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.swaps import Swaps
from bonsai_core.selection.whole_drops import WholeDrops

MOST_SWAPS = 3

Numbers = Mapping[str, float | None]
Utilities = Callable[[str, Sequence[NDArray[np.bool_]], MeasuringData], list[float]]


def refine(
    job: Job,
    round: Round,
    request: SampleRequest,
    drops: WholeDrops,
    importance_U: NDArray[np.float64],
    answers: Sequence[NDArray[np.bool_]],
    utilities: Utilities,
    ledger: Ledger,
) -> tuple[NDArray[np.bool_], Numbers]:
    """The answer that measures best, and what a search makes of it.

    A wider choice must not end worse: the answer with wholes stands only where it measures better than the one without.

    Args:
        request: the round's.
        drops: the round's wholes; those that the answer dropped stay dropped in the search.
        importance_U: the regression's, float64 [U].
        answers: its selections, bool [U]; the narrower one first, if there are two.
        utilities: see `utilities_of`.

    Returns:
        The best keep vector found, and numbers for the report.
    """
    assert round.search is not None
    measured = len(answers) if len(answers) > 1 or job.config.search else 0
    ledger.skip((answers_measured(job.config) - measured) * round.search.data.num_tokens)
    if not measured:
        return answers[0], {}
    if len(answers) > 1:
        ledger.begin(Stage.SEARCH, "the answers with and without wholes", round.number)
    reached = utilities("start", answers, round.search)
    best = int(np.argmax(reached))  # of equal ones the first
    numbers: Numbers = {}
    if len(answers) > 1:
        without, with_wholes = map(_finite, reached)
        numbers = {"without_wholes": without, "with_wholes": with_wholes, "wholes_stand": float(best)}
    if not job.config.search:
        return answers[best], numbers
    posed = SelectionProblem(
        request.table, drops.left_by(answers[best]), importance_U, request.prior_U, round.target, job.rules
    )
    found_U, of_search = _search(job, round, Swaps(posed), answers[best], reached[best], utilities, ledger)
    return found_U, {**numbers, **of_search}


def _search(
    job: Job,
    round: Round,
    swaps: Swaps,
    best_U: NDArray[np.bool_],
    best: float,
    utilities: Utilities,
    ledger: Ledger,
) -> tuple[NDArray[np.bool_], Numbers]:
    """Evolution by swaps of budget between sites, in tournaments over more and more text.

    Every generation swaps budget between a few sites, in the directions that cost least by the regression; all
    offspring are measured on a little text of the search's own, the best of them on all of it, and a finalist replaces
    the current best if it beats it. Sieberling et al. 2024 (EvoPress), arXiv:2410.14649; where we differ: the
    regression gives the start and proposes, and sub-models are measured as repaired.

    Args:
        best_U, best: where it starts, bool [U], and its utility.
    """
    assert round.search is not None
    everything = round.search
    little = everything.first(len(everything.data.windows_NT) // FIRST_HEAT)
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
    return best_U, {"search_start": _finite(start), "search_end": _finite(best), "search_improved": improved}


def _finite(utility: float) -> float | None:
    return None if np.isinf(utility) else utility


def utilities_of(
    job: Job,
    round: Round,
    repairs: Repairs,
    workers: Workers,
    ledger: Ledger,
    name: str,
    keeps: Sequence[NDArray[np.bool_]],
    sample: MeasuringData,
) -> list[float]:
    """Of the model as the round would leave it with these keep vectors; -inf where one is not finite."""
    keep_MU = np.stack(keeps)
    metric = job.methods.metric

    def measure() -> Payload:
        source = repairs.of(keep_MU) if job.methods.compensator.repairs else None
        batch = workers.submodels_at_once(sample, len(keep_MU))
        parts = [keep_MU[first : first + batch] for first in range(0, len(keep_MU), batch)]
        values = dict(workers.values(sample, parts, source))
        return {"values": [value for number in range(len(parts)) for value in values[number]]}

    step = round.step(f"search-{name}", len(keep_MU) * sample.data.num_tokens)
    values = ledger.once(step, measure)["values"]
    return [-np.inf if value is None else metric.utility(value) for value in values]
