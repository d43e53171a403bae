"""The sub-models of one round: drawn, and measured with forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Draw, SampleRequest
from bonsai_core.engine.estimate import Measured, evidence
from bonsai_core.engine.job import Job
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import Round, Stream
from bonsai_core.engine.workers import Workers
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Stage, SubmodelMeasured
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step
from bonsai_core.rundir.measurement_cache import Arrays, code_of
from bonsai_core.selection.whole_drops import WholeDrops


def measure(
    job: Job,
    round: Round,
    request: SampleRequest,
    drops: WholeDrops,
    repairs: Repairs,
    workers: Workers,
    ledger: Ledger,
) -> Measured:
    """Draw and measure the sub-models of a round, all at once or as a sequential sampler asks for them.

    Args:
        request: what the sampler is asked for.
        drops: sub-models that lose wholes, which come last.

    Raises:
        BonsaiError: the sampler's draw does not fit, or most sub-models gave no finite value.
    """
    methods, num_tokens = job.methods, round.measuring.data.num_tokens
    sampled, total = request.num_submodels, request.num_submodels + drops.num_submodels
    ledger.begin(Stage.MEASURE, f"{total} sub-models by {methods.metric.name}", round.number)
    cache_key = _cache_key(job, round, request) if ledger.has_cache and not job.spreads else None
    keep_MU = np.zeros((0, len(request.table)), dtype=bool)
    group_M, value_M = np.zeros(0, dtype=np.int64), np.zeros(0)
    dropped_U = np.zeros(len(request.table), dtype=bool)
    repaired = False
    while len(keep_MU) < sampled + drops.num_submodels:
        if len(keep_MU) < sampled:
            draw = _draw(job, round, request, num_drawn=len(keep_MU))
            if len(draw.keep_MU) == 0:  # what a sequential sampler looks for has settled
                sampled = len(keep_MU)
                continue
            dropped_U |= (request.alive_U & ~draw.keep_MU).any(axis=0)
        else:
            draw = drops.draw()
        drawn_MU = draw.keep_MU
        if len(keep_MU) == 0:  # decided once per round, so that all draws are comparable
            repaired = repairs.affordable(drawn_MU)
        drawn_M = np.full(len(drawn_MU), np.nan)
        steps = _batches(round, len(keep_MU), len(drawn_MU), workers, ledger)
        found = _values(job, round, steps, drawn_MU, repairs if repaired else None, cache_key, workers, ledger)
        for part, values in found:
            for index, value in enumerate(values, start=part.start):
                ledger.notify(SubmodelMeasured(round.number, len(keep_MU) + index, total, methods.metric.name, value))
                drawn_M[index] = np.nan if value is None else value
        value_M = np.append(value_M, drawn_M)
        keep_MU = np.concatenate([keep_MU, drawn_MU])
        group_M = np.append(group_M, draw.group_M + (group_M.max() + 1 if len(group_M) else 0))
        if len(keep_MU) < sampled:
            so_far = _finite(job, keep_MU, dropped_U, group_M, value_M, repaired)
            known = evidence(methods.estimator, request, so_far)
            request = replace(request, num_submodels=sampled - len(keep_MU), evidence=known)
    ledger.skip((total - len(keep_MU)) * num_tokens)
    measured = _finite(job, keep_MU, dropped_U, group_M, value_M, repaired)
    _check_finite(job, round, measured, ledger)
    return measured


def _draw(job: Job, round: Round, request: SampleRequest, num_drawn: int) -> Draw:
    """The sampler's next draw, checked."""
    # Drawn by number, so that a resumed run draws the same; the first draw's stream has no number of its own.
    rng = round.rng(Stream.SAMPLER, *([num_drawn] if num_drawn else []))
    sampler = job.methods.sampler
    draw = sampler.sample(request, rng)
    _check_draw(sampler.name, draw, request, may_be_fewer=sampler.sequential)
    return draw


Batch = tuple[slice, Step]
"""Some of the sub-models drawn, and the step that measures them."""


def _batches(round: Round, drawn_before: int, number: int, workers: Workers, ledger: Ledger) -> list[Batch]:
    """A draw of a number of sub-models in batches: those measured already as they were, the others as suits who works.

    Args:
        drawn_before: sub-models of the round that were drawn before.
    """
    sample, batches, first = round.measuring, list[Batch](), 0
    at_once = workers.submodels_at_once(sample, number)

    def step_at(first: int, tokens: int = 0) -> Step:
        return round.step(f"submodels-{drawn_before + first}", tokens)

    while first < number:
        if step_at(first) in ledger:
            end = first + len(ledger.journal[step_at(first).key]["values"])
        else:
            most = min(number, first + at_once)
            end = next((end for end in range(first + 1, most) if step_at(end) in ledger), most)
        batches.append((slice(first, end), step_at(first, (end - first) * sample.data.num_tokens)))
        first = end
    return batches


def _values(
    job: Job,
    round: Round,
    batches: Sequence[Batch],
    drawn_MU: NDArray[np.bool_],
    repairs: Repairs | None,
    cache_key: Mapping[str, Any] | None,
    workers: Workers,
    ledger: Ledger,
) -> Iterator[tuple[slice, list[float | None]]]:
    """The metric's values of batches of sub-models, as they come in; None for one that is not finite.

    Args:
        repairs: what repairs them; None if they are measured as they are.
    """
    part_of, missing = {step: part for part, step in batches}, list[Batch]()
    for part, step in batches:
        if step in ledger:
            yield part, ledger.once(step, dict)["values"]
        else:
            missing.append((part, step))

    def measured(parts: Sequence[slice]) -> Iterator[tuple[int, list[float | None]]]:
        source = None if repairs is None else repairs.of(drawn_MU)
        return workers.values(round.measuring, [drawn_MU[part] for part in parts], source)

    def computed() -> Iterator[tuple[Step, Payload]]:
        if job.spreads:
            for number, values in measured([part for part, _ in missing]) if missing else ():
                yield missing[number][1], {"values": values}
            return
        for part, step in missing:
            key = {**cache_key, "keep": drawn_MU[part], "repaired": repairs is not None} if cache_key else None
            value_M = ledger.cached(key, step.tokens, partial(_as_array, partial(measured, [part])))["values"]
            yield step, {"values": [float(value) if np.isfinite(value) else None for value in value_M]}

    for step, payload in ledger.each(computed()):
        yield part_of[step], payload["values"]


def _as_array(measured: Callable[[], Iterator[tuple[int, list[float | None]]]]) -> Arrays:
    return {"values": np.array([value for _, values in measured() for value in values], dtype=np.float64)}


def _cache_key(job: Job, round: Round, request: SampleRequest) -> Mapping[str, Any] | None:
    """What decides the values of the dense model's sub-models; None where they are not comparable between runs."""
    metric, compensator = job.methods.metric, job.methods.compensator
    if not request.alive_U.all() or metric.reads == "nothing":
        return None
    repair = {
        "compensator": job.config.compensator.model_dump(),
        "code": code_of(compensator),
        "windows": round.prior_NT,
    }
    return {
        **job.cache_key,
        "metric": job.config.metric.model_dump(),
        "code": code_of(metric),
        "data": round.measuring.data.sha256,
        "repair": repair if compensator.repairs else None,
    }


def _finite(
    job: Job,
    keep_MU: NDArray[np.bool_],
    dropped_U: NDArray[np.bool_],
    group_M: NDArray[np.int64],
    value_M: NDArray[np.float64],
    repaired: bool,
) -> Measured:
    finite_M = np.isfinite(value_M)
    utility_M = np.array([job.methods.metric.utility(float(value)) for value in value_M[finite_M]])
    return Measured(keep_MU[finite_M], dropped_U.copy(), utility_M, group_M[finite_M], int((~finite_M).sum()), repaired)


def _check_finite(job: Job, round: Round, measured: Measured, ledger: Ledger) -> None:
    metric = job.methods.metric.name
    dropped, total = measured.num_dropped, measured.num_dropped + len(measured.keep_MU)
    if dropped > total / 2:
        raise BonsaiError(
            f"In round {round.number} the metric {metric!r} was not finite for {dropped} of {total} sub-models. "
            f"Try --dtype float32 or bfloat16, a smaller --round-fraction, or another --metric."
        )
    if dropped:
        ledger.warn(f"{dropped} of {total} sub-models gave no finite {metric} and were left out.")


def _check_draw(name: str, draw: Draw, request: SampleRequest, *, may_be_fewer: bool) -> None:
    wanted = (request.num_submodels, len(request.table))
    shape = draw.keep_MU.shape
    fits = (
        len(shape) == 2 and shape[1] == wanted[1] and (shape[0] == wanted[0] or (may_be_fewer and shape[0] < wanted[0]))
    )
    grouped = draw.group_M.shape == shape[:1]
    if not fits or not grouped or draw.keep_MU.dtype != bool or not _keeps_enough(draw, request):
        raise BonsaiError(
            f"The sampler {name!r} must return {'at most ' if may_be_fewer else ''}{wanted[0]} boolean keep vectors of "
            f"{wanted[1]} units that keep no dead unit, leave every site its `minimum_S`, and have a group for each; "
            f"it returned {draw.keep_MU.dtype} {shape} and {draw.group_M.shape} groups."
        )


def _keeps_enough(draw: Draw, request: SampleRequest) -> bool:
    """Whether no dead unit is kept, and every site keeps what it must."""
    if draw.keep_MU[:, ~request.alive_U].any():
        return False
    for site, minimum in zip(request.table, request.minimum_S, strict=True):
        alive = int(request.alive_U[site.units].sum())
        if (draw.keep_MU[:, site.units].sum(axis=1) < min(int(minimum), alive)).any():
            return False
    return True
