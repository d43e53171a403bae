"""The sub-models of one round: drawn, measured, each value in the journal before it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Draw, Evidence, SampleRequest
from bonsai_core.engine.fitting import fit_units
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.setup import Workspace
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Event, Stage, StageStarted, SubmodelMeasured, TokensDone, Warned
from bonsai_core.model.forward.probe import CalibrationData, ModelProbe
from bonsai_core.rundir import Journal
from bonsai_core.rundir.measurement_cache import Arrays, SharedMeasurements, code_of, once
from bonsai_core.selection.whole_drops import WholeDrops

SAMPLER_STREAM = 1


@dataclass(frozen=True)
class Measured:
    """The sub-models that gave a finite value.

    Attributes:
        keep_MU: bool [M, U].
        individually_dropped_U: units that the sampler dropped, bool [U]; others went with a whole, if at all.
        utility_M: float64 [M].
        group_M: int64 [M]; sub-models drawn together share a number.
        num_dropped: how many gave no finite value and are left out.
        repaired: whether they were measured as they would be after repair.
    """

    keep_MU: NDArray[np.bool_]
    individually_dropped_U: NDArray[np.bool_]
    utility_M: NDArray[np.float64]
    group_M: NDArray[np.int64]
    num_dropped: int
    repaired: bool


class SubModels:
    """Draws and measures the sub-models of a round, all at once or as a sequential sampler asks for them.

    Args:
        work: what the run works with.
        repairs: the round's.
        journal: where values go.
        observe: told every event.
        shared: where measurements of the dense model's sub-models are kept for other runs.
    """

    def __init__(
        self,
        work: Workspace,
        repairs: Repairs,
        journal: Journal,
        observe: Callable[[Event], None],
        shared: SharedMeasurements | None,
    ) -> None:
        self._work = work
        self._repairs = repairs
        self._journal = journal
        self._observe = observe
        self._shared = shared

    def measure(
        self, number: int, request: SampleRequest, drops: WholeDrops, probe: ModelProbe, data: CalibrationData
    ) -> Measured:
        """The sub-models of round `number`, measured.

        Args:
            request: what the sampler is asked for.
            drops: which wholes sub-models lose besides.

        Raises:
            BonsaiError: the sampler's draw does not fit, or most sub-models gave no finite value.
        """
        work, total = self._work, request.num_submodels
        sampler, metric = work.methods.sampler, work.methods.metric
        self._observe(StageStarted(Stage.MEASURE, number, f"{total} sub-models by {metric.name}"))
        origin = None
        if self._shared is not None and request.alive_U.all() and metric.reads != "nothing":
            origin = {
                **work.dense_origin,
                "metric": work.config.metric.model_dump(),
                "code": code_of(metric),
                "data": data.sha256,
                "repair": self._repair_origin(number),
            }
        keeps = np.zeros((0, len(request.table)), dtype=bool)
        groups = np.zeros(0, dtype=np.int64)
        values = np.zeros(0)
        individually_dropped_U = np.zeros(len(request.table), dtype=bool)
        repaired = False
        while len(keeps) < total:
            # Drawn by number, so that a resumed run draws the same; the first draw's stream has no number of its own.
            stream = [work.config.seed, number, SAMPLER_STREAM, *([len(keeps)] if len(keeps) else [])]
            draw = sampler.sample(request, np.random.default_rng(stream))
            _check_draw(sampler.name, draw, request, may_be_fewer=sampler.sequential)
            if len(draw.keep_MU) == 0:  # settled, unless there are wholes that have not had their turn
                draw = drops.remaining(len(keeps), total)
            keep_MU = drops.dropped_from(draw.keep_MU, len(keeps))
            individually_dropped_U |= (request.alive_U & ~draw.keep_MU).any(axis=0)
            if len(keeps) == 0:  # for all of the round, or those of one draw could not be held against another's
                repaired = self._prepare(number, keep_MU)
            for keep_U in keep_MU:
                value = self._value(number, len(values), keep_U, repaired, probe, data, origin)
                self._observe(SubmodelMeasured(number, len(values), total, metric.name, value))
                values = np.append(values, np.nan if value is None else value)
            keeps = np.concatenate([keeps, keep_MU])
            groups = np.concatenate([groups, draw.group_M + (groups.max() + 1 if len(groups) else 0)])
            if len(draw.keep_MU) == 0:  # settled; what was not measured counts as done
                self._observe(TokensDone((total - len(keeps)) * data.num_tokens, replayed=True))
                break
            if len(keeps) < total:
                evidence = _evidence(
                    work, _finite(work, keeps, individually_dropped_U, groups, values, repaired), request
                )
                request = replace(request, num_submodels=total - len(keeps), evidence=evidence)
        measured = _finite(work, keeps, individually_dropped_U, groups, values, repaired)
        self._check_finite(number, measured)
        return measured

    def _value(
        self,
        number: int,
        index: int,
        keep_U: NDArray[np.bool_],
        repaired: bool,
        probe: ModelProbe,
        data: CalibrationData,
        origin: Mapping[str, Any] | None,
    ) -> float | None:
        """The metric's value of one sub-model, shared under its `origin` if it has one; None where it is not finite."""
        key = f"round-{number}/submodel-{index}"
        if key in self._journal:
            self._observe(TokensDone(data.num_tokens, replayed=True))
            found: float | None = self._journal[key]["value"]
            return found

        def measure() -> Arrays:
            sub_model = self._repairs.applied(keep_U) if repaired else self._work.subject.masked(keep_U)
            with sub_model, torch.no_grad():
                return {"value": np.array([self._work.methods.metric.measure(probe)])}

        measured = once(self._shared, {**origin, "keep": keep_U, "repaired": repaired} if origin else None, measure)
        if measured.found:
            self._observe(TokensDone(data.num_tokens, replayed=True))
        value = float(measured.arrays["value"][0])
        self._journal.append(key, {"value": value if np.isfinite(value) else None}, measured.seconds)
        return value if np.isfinite(value) else None

    def _prepare(self, number: int, keep_MU: NDArray[np.bool_]) -> bool:
        """Whether the round's sub-models are measured as repaired; if so, repairs of the first draw are ready."""
        if not self._work.methods.compensator.repairs:
            return False
        key = f"round-{number}/submodel-repairs"
        if all(f"round-{number}/submodel-{index}" in self._journal for index in range(len(keep_MU))):
            return bool(self._journal[key]["repaired"])
        start = time.perf_counter()
        repaired = self._repairs.prepare(keep_MU)
        if key not in self._journal:
            self._journal.append(key, {"repaired": repaired}, time.perf_counter() - start)
        return repaired

    def _repair_origin(self, number: int) -> Mapping[str, Any] | None:
        """What repairs depend on; None if there are none."""
        work = self._work
        if not work.methods.compensator.repairs:
            return None
        return {
            "compensator": work.config.compensator.model_dump(),
            "code": code_of(work.methods.compensator),
            "windows": work.prior_windows(number),
        }

    def _check_finite(self, number: int, measured: Measured) -> None:
        metric = self._work.methods.metric.name
        dropped, total = measured.num_dropped, measured.num_dropped + len(measured.keep_MU)
        if dropped > total / 2:
            raise BonsaiError(
                f"In round {number} the metric {metric!r} was not finite for {dropped} of {total} sub-models. "
                f"Try --dtype float32 or bfloat16, a smaller --round-fraction, or another --metric."
            )
        if dropped:
            self._observe(Warned(f"{dropped} of {total} sub-models gave no finite {metric} and were left out."))


def _finite(
    work: Workspace,
    keep_MU: NDArray[np.bool_],
    individually_dropped_U: NDArray[np.bool_],
    group_M: NDArray[np.int64],
    value_M: NDArray[np.float64],
    repaired: bool,
) -> Measured:
    finite_M = np.isfinite(value_M)
    utility_M = np.array([work.methods.metric.utility(float(value)) for value in value_M[finite_M]])
    return Measured(
        keep_MU[finite_M], individually_dropped_U, utility_M, group_M[finite_M], int((~finite_M).sum()), repaired
    )


def _evidence(work: Workspace, measured: Measured, request: SampleRequest) -> Evidence | None:
    """What the measurements so far say; None while nothing can be told from them."""
    fitted = fit_units(work.methods.estimator, request, measured.keep_MU, measured.utility_M, measured.group_M)
    if fitted is None:
        return None
    assert fitted.fit.spread_U is not None  # estimators that give none are refused with such samplers
    spread_U = np.full(len(request.table), np.nan)
    spread_U[fitted.perturbed_U] = fitted.fit.spread_U
    individually_dropped_U = measured.individually_dropped_U
    return Evidence(
        np.where(individually_dropped_U, fitted.importance_U, np.nan),
        np.where(individually_dropped_U, spread_U, np.nan),
    )


def _check_draw(name: str, draw: Draw, request: SampleRequest, *, may_be_fewer: bool) -> None:
    wanted = (request.num_submodels, len(request.table))
    shape = draw.keep_MU.shape
    fits = (
        len(shape) == 2 and shape[1] == wanted[1] and (shape[0] == wanted[0] or (may_be_fewer and shape[0] < wanted[0]))
    )
    grouped = draw.group_M.shape == shape[:1]
    if not fits or not grouped or draw.keep_MU.dtype != bool or not _leaves_least(draw, request):
        raise BonsaiError(
            f"The sampler {name!r} must return boolean keep vectors of shape {wanted}"
            f"{' at most' if may_be_fewer else ''} that keep no dead unit, leave every site its `minimum_S`, and have "
            f"a group for each; it returned "
            f"{draw.keep_MU.dtype} {shape} and "
            f"{draw.group_M.shape} groups."
        )


def _leaves_least(draw: Draw, request: SampleRequest) -> bool:
    """Whether no dead unit is kept, and every site keeps what it must."""
    if draw.keep_MU[:, ~request.alive_U].any():
        return False
    for site, least in zip(request.table, request.minimum_S, strict=True):
        alive = int(request.alive_U[site.units].sum())
        if (draw.keep_MU[:, site.units].sum(axis=1) < min(int(least), alive)).any():
            return False
    return True
