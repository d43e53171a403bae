"""Ridge regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated
from bonsai_plugins.estimators.patterns import Patterns


class Ridge(CrossValidated):
    """Least squares with a squared penalty on the importances; its strength is chosen by cross-validation.

    Closed form (Cholesky) in the dual, since sub-models are usually fewer than units. The paper's regression: Dery et
    al. 2024, arXiv:2402.05406, eq. 3. Where we differ: units that always went together are one feature, and how often
    it was dropped does not make it cheaper, see `Patterns`.
    """

    name: ClassVar[str] = "ridge"

    def fit(self, measurements: Measurements) -> Fit:
        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))  # nothing to learn: the prior orders
        patterns = Patterns.of(measurements)
        solution = self._search_dual(patterns.both_MM, measurements.utility_M, measurements.group_M)
        return Fit(patterns.per_unit(patterns.effects(solution.weight_M)), {"alpha": solution.alpha})
