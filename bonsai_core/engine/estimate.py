"""From a round's measurements to one importance per unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Estimator, Evidence, Fit, Measurements, SampleRequest
from bonsai_core.engine.validation import predict_out_of_fold, rank_correlation
from bonsai_core.errors import BonsaiError


@dataclass(frozen=True)
class Measured:
    """The sub-models of a round that gave a finite value.

    Attributes:
        keep_MU: bool [M, U].
        individually_dropped_U: units that the sampler dropped, bool [U]; others left with a whole, if at all.
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


@dataclass(frozen=True)
class Estimate:
    """What a round learnt about its units.

    Attributes:
        importance_U: float64 [U], larger means keep; NaN where nothing is known. That of a unit that left only with
            a whole is a share of the whole's.
        unit_importance_U: the same, but NaN where it is only such a share.
        kendall_tau: rank correlation of predicted and measured utilities, out of fold; None where there is none.
        predictions: those utilities, ``predicted_M`` and ``utility_M``, float64 [M]; empty where there are none.
        details: what the estimator reports.
        num_submodels, num_dropped, repaired: of the measurements behind it, see `Measured`.
    """

    importance_U: NDArray[np.float64]
    unit_importance_U: NDArray[np.float64]
    kendall_tau: float | None = None
    predictions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    details: Mapping[str, float | None] = field(default_factory=dict)
    num_submodels: int = 0
    num_dropped: int = 0
    repaired: bool = False

    @classmethod
    def nothing(cls, request: SampleRequest) -> Estimate:
        """Nothing was measured."""
        unknown_U = np.full(len(request.table), np.nan)
        return cls(unknown_U, unknown_U)


def estimate(estimator: Estimator, request: SampleRequest, measured: Measured, warn: Callable[[str], None]) -> Estimate:
    """The estimator's regression of a round's measurements.

    Raises:
        BonsaiError: the estimator returned a wrong shape, or numbers that are not finite.
    """
    fitted = _fit(estimator, request, measured)
    importance_U, kendall_tau, details = np.full(len(request.table), np.nan), None, {}
    predictions: dict[str, NDArray[np.float64]] = {}
    if fitted is None:
        warn("No unit was perturbed in this round, so the prior alone decides it.")
    else:
        importance_U, details = fitted.importance_U, dict(fitted.fit.details)
        predicted_M = predict_out_of_fold(estimator, fitted.measurements)
        if predicted_M is not None:
            predictions = {"predicted_M": predicted_M, "utility_M": measured.utility_M}
            kendall_tau = rank_correlation(predicted_M, measured.utility_M)
    return Estimate(
        importance_U,
        np.where(measured.individually_dropped_U, importance_U, np.nan),
        kendall_tau,
        predictions,
        details,
        len(measured.keep_MU),
        measured.num_dropped,
        measured.repaired,
    )


def estimate_by_prior(estimator: Estimator, request: SampleRequest) -> Estimate:
    """Importances from no measurement at all; NaN for dead units.

    Raises:
        BonsaiError: as for `estimate`.
    """
    table, alive_U = request.table, request.alive_U
    nothing = Measurements(
        np.zeros((0, len(table)), dtype=bool),
        np.zeros(0),
        np.zeros(0, dtype=np.int64),
        request.prior_U,
        table.site_U,
        np.maximum(table.cost_U, 1),
    )
    fit = estimator.fit(nothing.columns(alive_U))
    importance_U = np.full(len(table), np.nan)
    importance_U[alive_U] = _checked(estimator, "importances", fit.importance_U, int(alive_U.sum()))
    return Estimate(importance_U, importance_U)


def evidence(estimator: Estimator, request: SampleRequest, measured: Measured) -> Evidence | None:
    """What the measurements so far say to a sequential sampler; None while they tell no units apart."""
    fitted = _fit(estimator, request, measured)
    if fitted is None:
        return None
    assert fitted.fit.spread is not None  # estimators that give none are refused with such samplers
    spread_U = np.full(len(request.table), np.nan)
    spread_U[fitted.perturbed_U] = _checked(estimator, "spreads", fitted.fit.spread(), int(fitted.perturbed_U.sum()))
    dropped_U = measured.individually_dropped_U
    return Evidence(np.where(dropped_U, fitted.importance_U, np.nan), np.where(dropped_U, spread_U, np.nan))


@dataclass(frozen=True)
class _Fitted:
    """A fit over the units that the measurements tell apart.

    Attributes:
        measurements: what it was fitted to, perturbed units only.
        perturbed_U: those units, bool [U].
        importance_U: float64 [U]; NaN for all others.
        fit: what the estimator returned.
    """

    measurements: Measurements
    perturbed_U: NDArray[np.bool_]
    importance_U: NDArray[np.float64]
    fit: Fit


def _fit(estimator: Estimator, request: SampleRequest, measured: Measured) -> _Fitted | None:
    """The estimator's fit; None if no unit is kept by one sub-model and dropped by another."""
    table = request.table
    everything = Measurements(
        measured.keep_MU,
        measured.utility_M,
        measured.group_M,
        request.prior_U,
        table.site_U,
        np.maximum(table.cost_U, 1),
    )
    perturbed_U = everything.perturbed_U
    if not perturbed_U.any():
        return None
    measurements = everything.columns(perturbed_U)
    fit = estimator.fit(measurements)
    importance_U = np.full(len(table), np.nan)
    importance_U[perturbed_U] = _checked(estimator, "importances", fit.importance_U, int(perturbed_U.sum()))
    return _Fitted(measurements, perturbed_U, importance_U, fit)


def _checked(estimator: Estimator, what: str, found_U: NDArray[np.float64], num_units: int) -> NDArray[np.float64]:
    array = np.asarray(found_U, dtype=np.float64)
    if array.shape != (num_units,) or not np.isfinite(array).all():
        raise BonsaiError(
            f"The estimator {estimator.name!r} must return {num_units} finite {what}; it returned shape "
            f"{array.shape} with {int((~np.isfinite(array)).sum())} non-finite values."
        )
    return array
