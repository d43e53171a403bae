"""From a round's measurements to one importance per unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Estimator, Fit, Measurements, SampleRequest
from bonsai_core.errors import BonsaiError


@dataclass(frozen=True)
class Fitted:
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


def fit_units(
    estimator: Estimator,
    request: SampleRequest,
    keep_MU: NDArray[np.bool_],
    utility_M: NDArray[np.float64],
    group_M: NDArray[np.int64],
) -> Fitted | None:
    """The estimator's fit; None if no unit is kept by one sub-model and dropped by another.

    Raises:
        BonsaiError: the estimator returned a wrong shape, or numbers that are not finite.
    """
    table = request.table
    measured = Measurements(keep_MU, utility_M, group_M, request.prior_U, table.site_U, table.cost_U)
    perturbed_U = measured.perturbed_U
    if not perturbed_U.any():
        return None
    measurements = measured.columns(perturbed_U)
    fit = _checked(estimator, estimator.fit(measurements), int(perturbed_U.sum()))
    importance_U = np.full(len(table), np.nan)
    importance_U[perturbed_U] = fit.importance_U
    return Fitted(measurements, perturbed_U, importance_U, fit)


def fit_prior_alone(estimator: Estimator, request: SampleRequest) -> NDArray[np.float64]:
    """Importances from no measurement at all, float64 [U]; NaN for dead units.

    Raises:
        BonsaiError: as for `fit_units`.
    """
    table, alive_U = request.table, request.alive_U
    nothing = Measurements(
        np.zeros((0, len(table)), dtype=bool),
        np.zeros(0),
        np.zeros(0, dtype=np.int64),
        request.prior_U,
        table.site_U,
        table.cost_U,
    )
    fit = _checked(estimator, estimator.fit(nothing.columns(alive_U)), int(alive_U.sum()))
    importance_U = np.full(len(table), np.nan)
    importance_U[alive_U] = fit.importance_U
    return importance_U


def _checked(estimator: Estimator, fit: Fit, num_units: int) -> Fit:
    for what, found_U in (("importances", fit.importance_U), ("spreads", fit.spread_U)):
        if found_U is None and not (what == "spreads" and estimator.gives_spread):
            continue
        array = np.asarray(found_U, dtype=np.float64)
        if array.shape != (num_units,) or not np.isfinite(array).all():
            raise BonsaiError(
                f"The estimator {estimator.name!r} must return {num_units} finite {what}; it returned shape "
                f"{array.shape} with {int((~np.isfinite(array)).sum())} non-finite values."
            )
    return fit
