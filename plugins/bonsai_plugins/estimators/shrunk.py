"""Ridge regression towards the prior's ranking."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated
from bonsai_plugins.estimators.patterns import Patterns
from bonsai_plugins.estimators.ranks import rank_weight, site_share


class Shrunk(CrossValidated):
    """Ridge towards the prior's own ranking instead of towards zero: what is not measured follows the prior.

    importance = (level + a * w0) * share + delta, with w0 the prior's rank within the site relative to the mean rank,
    and share the unit's part of its site's parameters: without measurements, all sites are worth the same. delta is
    penalised, its strength chosen by cross-validation; level and a are fitted with it, with almost no penalty, and are
    never negative: the prior's order is never reversed. The level keeps an uninformative prior from getting credit for
    what units are worth on average. If only whole windows were switched, the two cannot be distinguished and share
    equally.

    A normal prior with non-zero mean (Lindley and Smith 1972, J. R. Stat. Soc. B 34(1)); "targeted" ridge in van
    Wieringen 2015, arXiv:1509.09169. Where we differ: the target's size is fitted, since ranks have no scale.
    """

    name: ClassVar[str] = "shrunk"

    def fit(self, measurements: Measurements) -> Fit:
        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        patterns = Patterns.of(measurements)
        coordinate_MK, weight_MK = patterns.rotated()
        share_U = site_share(measurements)
        target_UC = np.column_stack([share_U, rank_weight(measurements) * share_U])
        common_MC = measurements.kept(target_UC)
        solution = self._search_around(common_MC, coordinate_MK, measurements.utility_M, measurements.group_M)
        delta_U = patterns.per_unit(patterns.effects(weight_MK @ solution.coefficient_K))
        level, slope = solution.common_C
        return Fit(
            target_UC @ solution.common_C + delta_U,
            {"alpha": solution.alpha, "level": float(level), "prior_slope": float(slope)},
        )
