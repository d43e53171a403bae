"""What a unit of the prior costs in each site."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated
from bonsai_plugins.estimators.patterns import Patterns


class Prices(CrossValidated):
    """Ridge towards one common price per unit of the prior, for priors that say how much is lost, such as `obs`.

    importance = price * prior + delta. The price is fitted all but unpenalised and never negative; delta is the
    deviation of units that always went together, penalised, its strength chosen by cross-validation, and shared among
    them in proportion to the prior: inside a site the prior's loss curve stands, and measurements stretch it. Units
    that no sub-model dropped continue their site's curve, at the common price at least: beyond what was measured, no
    site is taken to be cheaper than the others.

    As `shrunk`, a normal prior with non-zero mean (Lindley and Smith 1972, J. R. Stat. Soc. B 34(1)).
    """

    name: ClassVar[str] = "prices"
    extrapolates: ClassVar[bool] = True

    def fit(self, measurements: Measurements) -> Fit:
        importance_U = np.zeros(measurements.keep_MU.shape[1])
        perturbed_U = measurements.perturbed_U
        if not can_be_cross_validated(measurements) or not perturbed_U.any():
            return Fit(importance_U)
        loss_U = np.maximum(measurements.prior_U, np.finfo(np.float64).tiny)
        told_apart = measurements.columns(perturbed_U)
        patterns = Patterns.of(told_apart, loss_U[perturbed_U])
        coordinate_MK, direction_PK = patterns.rotated()
        common_MC = np.asarray(told_apart.keep_MU @ loss_U[perturbed_U, None], dtype=np.float64)
        found = self._search_around(common_MC, coordinate_MK, measurements.utility_M, measurements.group_M)
        price = float(found.common_C[0])
        delta_U = patterns.per_unit(direction_PK @ found.coefficient_K)
        importance_U[perturbed_U] = price * loss_U[perturbed_U] + delta_U
        site_price_U = _site_prices(importance_U, loss_U, perturbed_U, measurements.site_U)
        importance_U[~perturbed_U] = (np.maximum(site_price_U, price) * loss_U)[~perturbed_U]
        return Fit(importance_U, {"alpha": found.alpha, "price": price})


def _site_prices(
    importance_U: NDArray[np.float64],
    loss_U: NDArray[np.float64],
    perturbed_U: NDArray[np.bool_],
    site_U: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Per unit, what the prior's loss costs in its site as far as that was perturbed, float64 [U]; 0 if never."""
    worth_S = np.bincount(site_U, importance_U * perturbed_U)
    lost_S = np.bincount(site_U, loss_U * perturbed_U)
    return np.divide(worth_S, lost_S, out=np.zeros(len(worth_S)), where=lost_S > 0)[site_U]
