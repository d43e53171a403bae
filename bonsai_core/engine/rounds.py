"""One round of the method: prior -> sample -> measure -> estimate -> select."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Draw, Fit, Measurements, SampleRequest
from bonsai_core.contracts.events import Event, StageStarted, SubmodelMeasured, TokensDone, Warned
from bonsai_core.engine.setup import Workspace
from bonsai_core.errors import BonsaiError
from bonsai_core.model.passes import DenseSide, Passes
from bonsai_core.model.statistics import score_units
from bonsai_core.rundir import Journal, RunDirectory
from bonsai_core.selection import select
from bonsai_core.validation import out_of_fold_tau

PRIOR_STREAM, SAMPLER_STREAM = 0, 1


class Rounds:
    """Runs rounds, each result journaled before it counts; what the journal already has is not computed again.

    Args:
        work: what the run works with.
        passes: forward passes over its subject.
        directory, journal: where results go.
        dense: the dense model's side of the calibration windows, for metrics that need it.
        observe: told every event.
    """

    def __init__(
        self,
        work: Workspace,
        passes: Passes,
        directory: RunDirectory,
        journal: Journal,
        dense: DenseSide | None,
        observe: Callable[[Event], None],
    ) -> None:
        self._work = work
        self._passes = passes
        self._directory = directory
        self._journal = journal
        self._dense = dense
        self._observe = observe

    def run(self, number: int, alive_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Round `number` (from 1), starting from the units alive; returns the units kept."""
        if self._work.slices_between_rounds:
            self._work.subject.slice(alive_U)
        prior_U = self._prior(number, alive_U)
        importance_U = np.full(len(alive_U), np.nan)
        summary: dict[str, Any] = {"kendall_tau": None, "details": {}, "dropped_submodels": 0}
        if self._work.methods.estimator.needs_measurements:
            draw = self._draw(number, alive_U, prior_U)
            value_M = self._measure(number, draw)
            finite_M = np.isfinite(value_M)
            self._check_finite(number, finite_M)
            importance_U, summary = self._estimate(draw, value_M, finite_M, prior_U)
        else:
            estimator = self._work.methods.estimator
            fit = _checked(estimator.name, estimator.fit(self._unmeasured(alive_U, prior_U)), int(alive_U.sum()))
            importance_U[alive_U] = fit.importance_U
        return self._select(number, alive_U, importance_U, prior_U, summary)

    def _prior(self, number: int, alive_U: NDArray[np.bool_]) -> NDArray[np.float64]:
        self._observe(StageStarted("prior", number, f"prior {self._work.methods.prior.name}"))
        key = f"round-{number}/prior"
        event = self._journal.get(key)
        if event is None:
            start = time.perf_counter()
            seed = int(np.random.SeedSequence([self._work.config.seed, number, PRIOR_STREAM]).generate_state(1)[0])
            prior_U = score_units(
                self._work.subject,
                self._passes,
                self._work.methods.prior,
                self._work.prior_NT,
                alive_U,
                seed,
            )
            sha256 = self._directory.save_arrays(number, "prior", prior_U=prior_U)
            self._journal.append(key, {"sha256": sha256}, time.perf_counter() - start)
            return prior_U
        if self._work.methods.prior.needs_data:
            self._observe(TokensDone(self._work.prior_NT.size, replayed=True))
        return self._directory.load_arrays(number, "prior", event["sha256"])["prior_U"]

    def _draw(self, number: int, alive_U: NDArray[np.bool_], prior_U: NDArray[np.float64]) -> Draw:
        work = self._work
        table = work.subject.table
        missing = work.plan.targets[number - 1] * table.decoder_params - table.removed_params(alive_U)
        alive_params = int(table.cost_U[alive_U].sum())
        request = SampleRequest(
            table,
            alive_U,
            prior_U,
            min(0.5, max(0.0, missing / alive_params)),
            work.config.submodels,
            work.config.min_units,
        )
        rng = np.random.default_rng([work.config.seed, number, SAMPLER_STREAM])
        draw = work.methods.sampler.sample(request, rng)
        wanted = (work.config.submodels, len(table))
        if draw.keep_MU.shape != wanted or draw.keep_MU.dtype != bool or draw.keep_MU[:, ~alive_U].any():
            raise BonsaiError(
                f"The sampler {work.methods.sampler.name!r} must return boolean keep vectors of shape {wanted} that "
                f"keep no dead unit; it returned {draw.keep_MU.dtype} {draw.keep_MU.shape}."
            )
        return draw

    def _measure(self, number: int, draw: Draw) -> NDArray[np.float64]:
        """The metric's value of every sub-model, float64 [M]; NaN where it is not finite."""
        metric = self._work.methods.metric
        total = len(draw.keep_MU)
        self._observe(StageStarted("measure", number, f"{total} sub-models by {metric.name}"))
        values: list[float] = []
        for index, keep_U in enumerate(draw.keep_MU):
            key = f"round-{number}/submodel-{index}"
            if key in self._journal:
                self._observe(TokensDone(self._work.calibration_NT.size, replayed=True))
            else:
                start = time.perf_counter()
                with self._work.subject.masked(keep_U):
                    measured = self._passes.metric(metric, self._work.calibration_NT, self._dense)
                payload = {"value": measured if np.isfinite(measured) else None}
                self._journal.append(key, payload, time.perf_counter() - start)
            value = self._journal[key]["value"]
            values.append(np.nan if value is None else value)
            self._observe(SubmodelMeasured(number, index, total, metric.name, value))
        return np.array(values)

    def _check_finite(self, number: int, finite_M: NDArray[np.bool_]) -> None:
        dropped = int((~finite_M).sum())
        metric = self._work.methods.metric.name
        if dropped > len(finite_M) / 2:
            raise BonsaiError(
                f"In round {number} the metric {metric!r} was not finite for {dropped} of {len(finite_M)} sub-models. "
                f"Try --dtype float32 or bfloat16, a smaller --round-fraction, or another --metric."
            )
        if dropped:
            self._observe(Warned(f"{dropped} of {len(finite_M)} sub-models gave no finite {metric} and were left out."))

    def _estimate(
        self,
        draw: Draw,
        value_M: NDArray[np.float64],
        finite_M: NDArray[np.bool_],
        prior_U: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Importances, NaN for units that no finite sub-model tells apart, and numbers for the report."""
        metric, table = self._work.methods.metric, self._work.subject.table
        measured = Measurements(
            draw.keep_MU[finite_M],
            np.array([metric.utility(float(value)) for value in value_M[finite_M]]),
            draw.group_M[finite_M],
            prior_U,
            table.site_U,
            table.cost_U,
        )
        perturbed_U = measured.perturbed_U
        importance_U = np.full(len(prior_U), np.nan)
        dropped = {"dropped_submodels": int((~finite_M).sum())}
        if not perturbed_U.any():
            self._observe(Warned("No unit was perturbed in this round, so the prior alone decides it."))
            return importance_U, {"kendall_tau": None, "details": {}, **dropped}
        measurements = measured.columns(perturbed_U)
        estimator = self._work.methods.estimator
        fit = _checked(estimator.name, estimator.fit(measurements), int(perturbed_U.sum()))
        importance_U[perturbed_U] = fit.importance_U
        tau = out_of_fold_tau(estimator, measurements)
        return importance_U, {"kendall_tau": tau, "details": dict(fit.details), **dropped}

    def _unmeasured(self, alive_U: NDArray[np.bool_], prior_U: NDArray[np.float64]) -> Measurements:
        """No sub-model, all living units: what an estimator gets that needs no measurements."""
        table = self._work.subject.table
        keep_MU = np.zeros((0, len(table)), dtype=bool)
        nothing = Measurements(keep_MU, np.zeros(0), np.zeros(0, dtype=np.int64), prior_U, table.site_U, table.cost_U)
        return nothing.columns(alive_U)

    def _select(
        self,
        number: int,
        alive_U: NDArray[np.bool_],
        importance_U: NDArray[np.float64],
        prior_U: NDArray[np.float64],
        summary: dict[str, Any],
    ) -> NDArray[np.bool_]:
        self._observe(StageStarted("select", number, "selection"))
        table = self._work.subject.table
        target = self._work.plan.targets[number - 1]
        keep_U = select(table, alive_U, importance_U, prior_U, target, self._work.rules)
        sha256 = self._directory.save_arrays(number, "selection", importance_U=importance_U, keep_U=keep_U)
        payload = {
            **summary,
            "sha256": sha256,
            "sparsity": table.sparsity(keep_U),
            "units_removed": int((alive_U & ~keep_U).sum()),
        }
        self._journal.append(f"round-{number}/selection", payload)
        return keep_U


def _checked(name: str, fit: Fit, num_units: int) -> Fit:
    importance_U = np.asarray(fit.importance_U)
    if importance_U.shape != (num_units,) or not np.isfinite(importance_U).all():
        raise BonsaiError(
            f"The estimator {name!r} must return {num_units} finite importances; it returned shape "
            f"{importance_U.shape} with {int((~np.isfinite(importance_U)).sum())} non-finite values."
        )
    return fit
