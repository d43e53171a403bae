"""Plain averages in place of a regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.patterns import Patterns


class Average(Estimator):
    """Mean utility of the sub-models that keep a unit, less that of those that drop it: perturbation, no regression.

    The effects of the other units are noise to it. The control for the regression of Dery et al. 2024,
    arXiv:2402.05406, section 4.3.
    """

    name: ClassVar[str] = "average"
    minimum_tau: ClassVar[float] = 0.5

    def fit(self, measurements: Measurements) -> Fit:
        patterns = Patterns.of(measurements)
        utility_M = measurements.utility_M - measurements.utility_M.mean()
        if np.ptp(measurements.utility_M) == 0:
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        total_P, count_P = patterns.combined(utility_M), patterns.keep_PM.sum(axis=1)
        with_P, without_P = total_P / np.maximum(1, count_P), -total_P / np.maximum(1, len(utility_M) - count_P)
        return Fit(patterns.per_unit(with_P - without_P))
