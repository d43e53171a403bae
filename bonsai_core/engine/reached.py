"""What has become of a budget: measured of the pruned model, and before the last round where time is the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.budget import timed_pass
from bonsai_core.engine.checkpoint import LATENCY_REPEATS, dense_beside
from bonsai_core.engine.job import Job
from bonsai_core.engine.rounds import Round
from bonsai_core.events import Stage
from bonsai_core.model.forward.latency import cached_per_token, median_seconds
from bonsai_core.model.forward.layer_latency import PICOSECONDS
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.select import UnreachableError, select

CORRECTION = (0.5, 2.0)
"""What was expected to be gained per what was, within these."""


def corrected(job: Job, round: Round, keep_U: NDArray[np.bool_], ledger: Ledger) -> Round:
    """The last round with its target corrected by what the time has come down to; others are as planned.

    A resumed run repeats the correction of the first process.

    Args:
        keep_U: of the model as the round finds it, bool [U].
    """
    measurable = job.config.target_latency is not None and job.slices_between_rounds
    if not measurable or not round.last or round.number == 1:
        return round

    def measure() -> Payload:
        ledger.begin(Stage.LATENCY, "what has been gained so far", round.number)
        return _timed(job)

    found, table = ledger.once(round.step("latency"), measure), job.budget.table
    if "skipped" in found:
        ledger.warn(f"The last round is not corrected by what was gained so far: {found['skipped']}.")
        return round
    expected, gained = table.sparsity(keep_U), 1 - found["pruned_s"] / found["dense_s"]
    factor = float(np.clip(expected / max(gained, 1e-9), *CORRECTION))
    return replace(round, target=_reachable(job, keep_U, factor * round.target, ledger))


def outcome(job: Job, keep_U: NDArray[np.bool_], saved: Mapping[str, Any]) -> Payload:
    """Of the run's target: what the dense model has, what may be left, what was predicted and what is measured.

    Integers in what the budget counts, such as picoseconds of the two models side by side. ``measured`` is None where
    the model in memory is not the pruned one.

    Args:
        saved: of the checkpoint: its ``bytes`` and ``parameters``.
    """
    budget, config = job.budget, job.config
    numbers = {"dense": budget.whole, "target": budget.most, "predicted": budget.left(keep_U)}
    words = {"of": config.target, "option": budget.option}
    if config.target_latency is not None:
        return {**words, **_times(job, numbers)}
    measures: Mapping[str | None, Callable[[], int | None]] = {
        "target_params": lambda: int(saved["parameters"]),
        "target_bytes": lambda: int(saved["bytes"]),
        "target_kv": lambda: _cached_bytes(job),
        "target_active_params": lambda: int(saved["parameters"]) - job.subject.idle_params(keep_U),
    }
    return {**words, **numbers, "measured": measures[config.target]()}


def _times(job: Job, numbers: Mapping[str, int]) -> dict[str, int | None]:
    """With what is measured; a share of the dense model is one of what that takes now, beside the pruned one."""
    found = _timed(job)
    if "skipped" in found:
        return {**numbers, "measured": None}
    dense, pruned = (round(found[side] * PICOSECONDS) for side in ("dense_s", "pruned_s"))
    scale = dense / job.budget.whole if job.budget.is_relative else 1.0
    now = {name: round(number * scale) for name, number in numbers.items()}
    return {**now, "dense": dense, "measured": pruned}


def _timed(job: Job) -> dict[str, Any]:
    """Seconds of the pass that the budget is about, by the dense and the pruned model in turns."""
    dense, timed = dense_beside(job), timed_pass(job.config)
    if isinstance(dense, str):
        return {"skipped": dense}
    sides = [timed.of(dense), timed.of(job.subject.model)]
    dense_s, pruned_s = median_seconds(sides, LATENCY_REPEATS)[:, 0].tolist()
    return {"dense_s": dense_s, "pruned_s": pruned_s}


def _cached_bytes(job: Job) -> int | None:
    """What a token more adds to the cache; None where the model in memory is not sliced."""
    if not job.subject.in_place:
        return None
    return sum(cached_per_token(job.subject.model))


def _reachable(job: Job, keep_U: NDArray[np.bool_], target: float, ledger: Ledger) -> float:
    """A target, or the highest that the rules allow."""
    table, unmeasured_U = job.budget.table, np.full(len(keep_U), np.nan)
    problem = SelectionProblem(table, keep_U, unmeasured_U, np.zeros(len(keep_U)), min(target, 1.0), job.rules)
    try:
        select(problem)
    except UnreachableError as error:
        ledger.warn(f"{job.budget.option}: pruning gains less time than was expected, and not enough is left to prune.")
        return table.sparsity(error.least_U)
    return target
