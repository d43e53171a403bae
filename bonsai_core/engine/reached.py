"""What has become of a budget, measured of the pruned model; where it is time, of the last round's answer, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.budget import timed_pass
from bonsai_core.engine.checkpoint import dense_beside
from bonsai_core.engine.job import Job
from bonsai_core.engine.rounds import Round
from bonsai_core.events import Stage
from bonsai_core.model.forward.latency import cached_per_token, enough_repeats, median_seconds
from bonsai_core.model.forward.layer_latency import PICOSECONDS
from bonsai_core.model.storage.memory import drop_weights
from bonsai_core.model.subject import Subject
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.select import UnreachableError, select

ATTEMPTS = 4
"""At a target whose answer takes as long as the budget allows, before the last round decides."""
CLOSE = (0.96, 1.01)
"""Time per what is allowed, within which an answer is taken."""
AIM = 0.99
"""At this much of what is allowed."""
SECONDS, REPEATS = 2.0, (7, 50)
"""What the repeats of a timing take, and how many they are."""
CORRECTION = (0.5, 2.0)
"""Of a target, by one attempt."""


def timed(job: Job, round: Round, problem: SelectionProblem, ledger: Ledger) -> Round:
    """The last round with the target at which its answer takes as long as a budget of time allows; others as planned.

    Prices are made of single sites, and a whole model takes a little less or more. A resumed run repeats the target of
    the first process.

    Args:
        problem: what the round selects by.
    """
    if job.config.target_latency is None or not round.last:
        return round

    def find() -> Payload:
        ledger.begin(Stage.LATENCY, "how long the answer takes", round.number)
        return _fitting_target(job, problem)

    found = ledger.once(round.step("latency"), find)
    if "skipped" in found:
        ledger.warn(f"The time of the answer is not measured before the end: {found['skipped']}.")
    elif found["reached"] > CLOSE[1]:
        ledger.warn(f"{job.budget.option} may be missed: the answer takes {found['reached']:.2f} of that, as measured.")
    return replace(round, target=found["target"])


def _fitting_target(job: Job, problem: SelectionProblem) -> dict[str, Any]:
    """The fraction of the priced whole, and the time that its answer takes per what is allowed."""
    target, tried = problem.sparsity, dict[float, float]()
    for _ in range(ATTEMPTS):
        dense = dense_beside(job)
        if isinstance(dense, str):
            return {"target": problem.sparsity, "skipped": dense}
        try:
            keep_U = select(replace(problem, sparsity=target))
        except UnreachableError as error:
            keep_U, target = error.least_U, problem.table.sparsity(error.least_U)
        dense_s, pruned_s = _seconds_of(job, dense, keep_U)
        drop_weights(dense)  # the next attempt loads it again
        allowed = 1 - job.budget.fraction if job.budget.is_relative else job.budget.most / PICOSECONDS / dense_s
        tried[target] = pruned_s / dense_s / allowed
        if CLOSE[0] <= tried[target] <= CLOSE[1]:
            break
        target = _next_target({0.0: 1 / allowed, **tried}, target)
    target = min(tried, key=lambda target: abs(tried[target] - AIM))
    return {"target": target, "reached": tried[target]}


def _next_target(tried: Mapping[float, float], last: float) -> float:
    """Where a line through the two targets closest to the aim meets it; not too far from the last one."""
    (one, time), (other, then) = sorted(tried.items(), key=lambda pair: abs(pair[1] - AIM))[:2]
    slope = (then - time) / (other - one)
    wanted = one + (AIM - time) / slope if slope < 0 else last * (2 if time > AIM else 0.5)
    return float(np.clip(wanted, last * CORRECTION[0], min(1.0, last * CORRECTION[1])))


def _seconds_of(job: Job, dense: Any, keep_U: NDArray[np.bool_]) -> tuple[float, float]:
    """Of the dense model, which is sliced, and of what is left of it; each in turns with the model under pruning."""
    dense_s, beside_s = _in_turns(job, dense, job.subject.model)
    Subject(dense, job.parent.family, table=job.table).slice(keep_U)
    pruned_s, then_s = _in_turns(job, dense, job.subject.model)
    return dense_s, pruned_s * beside_s / then_s


def _in_turns(job: Job, *models: Any) -> list[float]:
    """Median seconds of the pass that the budget is about."""
    sides = [timed_pass(job.config).of(model) for model in models]
    seconds: list[float] = median_seconds(sides, enough_repeats(sides, SECONDS, REPEATS))[:, 0].tolist()
    return seconds


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
    dense = dense_beside(job)
    if isinstance(dense, str):
        return {"skipped": dense}
    dense_s, pruned_s = _in_turns(job, dense, job.subject.model)
    return {"dense_s": dense_s, "pruned_s": pruned_s}


def _cached_bytes(job: Job) -> int | None:
    """What a token more adds to the cache; None where the model in memory is not sliced."""
    if not job.subject.in_place:
        return None
    return sum(cached_per_token(job.subject.model))
