"""The sub-models of one round: drawn, measured, each value in the journal before it counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Draw, Evidence, SampleRequest
from bonsai_core.contracts.events import Event, StageStarted, SubmodelMeasured, TokensDone, Warned
from bonsai_core.engine.fitting import fit_units
from bonsai_core.engine.setup import Workspace
from bonsai_core.errors import BonsaiError
from bonsai_core.model.probe import ModelProbe
from bonsai_core.rundir import Journal

SAMPLER_STREAM = 1


@dataclass(frozen=True)
class Measured:
    """The sub-models that gave a finite value.

    Attributes:
        keep_MU: bool [M, U].
        utility_M: float64 [M].
        group_M: int64 [M]; sub-models drawn together share a number.
        num_dropped: how many gave no finite value and are left out.
    """

    keep_MU: NDArray[np.bool_]
    utility_M: NDArray[np.float64]
    group_M: NDArray[np.int64]
    num_dropped: int


def measure_submodels(
    work: Workspace,
    number: int,
    request: SampleRequest,
    probe: ModelProbe,
    num_tokens: int,
    journal: Journal,
    observe: Callable[[Event], None],
) -> Measured:
    """Draw and measure the sub-models of round `number`, all at once or as a sequential sampler asks for them.

    Args:
        num_tokens: tokens of one measurement, for progress.

    Raises:
        BonsaiError: the sampler's draw does not fit, or most sub-models gave no finite value.
    """
    sampler, metric = work.methods.sampler, work.methods.metric
    total = request.num_submodels
    observe(StageStarted("measure", number, f"up to {total} sub-models by {metric.name}"))
    keeps = np.zeros((0, len(request.table)), dtype=bool)
    groups = np.zeros(0, dtype=np.int64)
    values = np.zeros(0)
    while len(keeps) < total:
        rng = np.random.default_rng([work.config.seed, number, SAMPLER_STREAM, *([len(keeps)] if len(keeps) else [])])
        draw = sampler.sample(request, rng)
        _check_draw(sampler.name, draw, request, may_be_fewer=sampler.sequential)
        for keep_U in draw.keep_MU:
            value = _measure(work, number, len(values), keep_U, probe, num_tokens, journal, observe)
            observe(SubmodelMeasured(number, len(values), total, metric.name, value))
            values = np.append(values, np.nan if value is None else value)
        keeps = np.concatenate([keeps, draw.keep_MU])
        groups = np.concatenate([groups, draw.group_M + (groups.max() + 1 if len(groups) else 0)])
        if len(draw.keep_MU) == 0:  # settled; what was not measured counts as done
            observe(TokensDone((total - len(keeps)) * num_tokens, replayed=True))
            break
        if len(keeps) < total:
            evidence = _evidence(work, _finite(work, keeps, groups, values), request)
            request = replace(request, num_submodels=total - len(keeps), evidence=evidence)
    measured = _finite(work, keeps, groups, values)
    _check_finite(number, metric.name, measured, observe)
    return measured


def _measure(
    work: Workspace,
    number: int,
    index: int,
    keep_U: NDArray[np.bool_],
    probe: ModelProbe,
    num_tokens: int,
    journal: Journal,
    observe: Callable[[Event], None],
) -> float | None:
    """The metric's value of one sub-model; None where it is not finite."""
    key = f"round-{number}/submodel-{index}"
    if key in journal:
        observe(TokensDone(num_tokens, replayed=True))
    else:
        start = time.perf_counter()
        with work.subject.masked(keep_U):
            value = work.methods.metric.measure(probe)
        journal.append(key, {"value": value if np.isfinite(value) else None}, time.perf_counter() - start)
    found: float | None = journal[key]["value"]
    return found


def _finite(
    work: Workspace, keep_MU: NDArray[np.bool_], group_M: NDArray[np.int64], value_M: NDArray[np.float64]
) -> Measured:
    finite_M = np.isfinite(value_M)
    utility_M = np.array([work.methods.metric.utility(float(value)) for value in value_M[finite_M]])
    return Measured(keep_MU[finite_M], utility_M, group_M[finite_M], int((~finite_M).sum()))


def _evidence(work: Workspace, measured: Measured, request: SampleRequest) -> Evidence | None:
    """What the measurements so far say; None while nothing can be told from them."""
    fitted = fit_units(work.methods.estimator, request, measured.keep_MU, measured.utility_M, measured.group_M)
    if fitted is None:
        return None
    assert fitted.fit.spread_U is not None  # estimators that give none are refused with such samplers
    spread_U = np.full(len(request.table), np.nan)
    spread_U[fitted.perturbed_U] = fitted.fit.spread_U
    return Evidence(fitted.importance_U, spread_U)


def _check_draw(name: str, draw: Draw, request: SampleRequest, *, may_be_fewer: bool) -> None:
    wanted = (request.num_submodels, len(request.table))
    rows, columns = draw.keep_MU.shape
    fits = columns == wanted[1] and (rows == wanted[0] or (may_be_fewer and rows < wanted[0]))
    if not fits or draw.keep_MU.dtype != bool or draw.keep_MU[:, ~request.alive_U].any():
        raise BonsaiError(
            f"The sampler {name!r} must return boolean keep vectors of shape {wanted} that "
            f"keep no dead unit; it returned {draw.keep_MU.dtype} {draw.keep_MU.shape}."
        )


def _check_finite(number: int, metric: str, measured: Measured, observe: Callable[[Event], None]) -> None:
    dropped, total = measured.num_dropped, measured.num_dropped + len(measured.keep_MU)
    if dropped > total / 2:
        raise BonsaiError(
            f"In round {number} the metric {metric!r} was not finite for {dropped} of {total} sub-models. "
            f"Try --dtype float32 or bfloat16, a smaller --round-fraction, or another --metric."
        )
    if dropped:
        observe(Warned(f"{dropped} of {total} sub-models gave no finite {metric} and were left out."))
