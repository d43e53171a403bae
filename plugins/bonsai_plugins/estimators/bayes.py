"""Bayesian ridge regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.patterns import Patterns


class Bayes(Estimator):
    """Ridge that says how sure it is: a normal prior and noise whose sizes make the measurements most likely.

    MacKay 1992, Neural Computation 4(3), "Bayesian interpolation"; updates as in Tipping 2001, JMLR 1. No
    cross-validation. `spread_U` is the posterior standard deviation of each unit's own importance; of units that
    always went together only the sum is known, so each of them keeps most of the prior's spread. Constant utilities
    are most likely if every importance is exactly zero: then the spread is zero as well.

    Where we differ: the fit runs in at most M coordinates (`Patterns.rotated`); the covariance [U, U] is never made.
    With V the directions and S the posterior covariance of their coefficients, the variance of unit u is
    (V S V')_uu + (1 - sum_k V_uk^2) / lambda, the second term for what no sub-model tells apart.
    """

    name: ClassVar[str] = "bayes"
    gives_spread: ClassVar[bool] = True
    iterations: int = Field(1000, ge=1, description="Most updates of the two sizes.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import BayesianRidge

        if np.ptp(measurements.utility_M) == 0:
            num_units = measurements.keep_MU.shape[1]
            return Fit(np.zeros(num_units), {}, np.zeros(num_units))
        patterns = Patterns.of(measurements.keep_MU)
        coordinate_MK, direction_PK = patterns.rotated()
        # In units of order one, so that scikit-learn's hyperpriors, of size 1e-6, do not matter.
        feature_size = np.sqrt(np.square(coordinate_MK).sum() / len(coordinate_MK))
        utility_size = measurements.utility_M.std()
        unit = utility_size / feature_size
        model = BayesianRidge(max_iter=self.iterations, tol=1e-6)
        model.fit(coordinate_MK / feature_size, (measurements.utility_M - measurements.utility_M.mean()) / utility_size)
        known_P = ((direction_PK @ model.sigma_) * direction_PK).sum(axis=1)
        told_apart_P = np.square(direction_PK).sum(axis=1)
        variance_P = (known_P + np.maximum(patterns.size_P - told_apart_P, 0) / model.lambda_) / patterns.size_P
        return Fit(
            patterns.per_unit(direction_PK @ model.coef_) * unit,
            {
                "noise": float(utility_size / np.sqrt(model.alpha_)),
                "prior_spread": float(unit / np.sqrt(model.lambda_)),
            },
            (np.sqrt(np.maximum(variance_P, 0)) * unit)[patterns.pattern_U],
        )
