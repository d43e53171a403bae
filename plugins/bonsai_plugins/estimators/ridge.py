"""Ridge regression."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated
from bonsai_plugins.estimators.patterns import Patterns

OFTEN = 0.95
"""Of the drops of the unit that was dropped most: with fewer, a unit counts as dropped less often."""


class Ridge(CrossValidated):
    """Least squares with a squared penalty on the importances; its strength is chosen by cross-validation.

    Closed form (Cholesky) in the dual, since sub-models are usually fewer than units. The paper's regression: Dery et
    al. 2024, arXiv:2402.05406, eq. 3. Where we differ: units that always went together are one feature, and how often
    it was dropped does not make it cheaper, see `Patterns`. With `towards` kind, what is penalised are deviations from
    what a parameter of units of the same cost is worth: sub-models that lose more KV groups than others tell that
    level, and importances that are mostly noise are drawn to it, not to zero. That is the way where some units were
    dropped less often than others, as KV groups are where a layer has few; else all are as noisy, and zero is fair.
    """

    name: ClassVar[str] = "ridge"
    towards: Literal["auto", "kind", "zero"] = Field(
        "auto",
        description="Importances are drawn to kind: the level of units of the same cost; to zero (the paper); auto: to "
        "kind where some were dropped less often than others.",
    )

    def fit(self, measurements: Measurements) -> Fit:
        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))  # nothing to learn: the prior orders
        patterns, utility_M, group_M = Patterns.of(measurements), measurements.utility_M, measurements.group_M
        dropped_P = 1 - patterns.keep_PM.mean(axis=1)
        uneven = self.towards == "auto" and bool(dropped_P.min() < OFTEN * dropped_P.max())
        if self.towards != "kind" and not uneven:
            dual = self._search_dual(patterns.both_MM, utility_M, group_M)
            return Fit(patterns.per_unit(patterns.effects(dual.weight_M)), {"alpha": dual.alpha})
        cost_U = measurements.cost_U
        level_UC = np.where(cost_U[:, None] == np.unique(cost_U), cost_U[:, None] / cost_U.sum(), 0.0)
        coordinate_MK, weight_MK = patterns.rotated()
        solution = self._search_around(measurements.kept(level_UC), coordinate_MK, utility_M, group_M)
        deviation_U = patterns.per_unit(patterns.effects(weight_MK @ solution.coefficient_K))
        return Fit(level_UC @ solution.common_C + deviation_U, {"alpha": solution.alpha})
