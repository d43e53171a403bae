"""Bayesian ridge regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.patterns import Patterns


class Bayes(Estimator):
    """Ridge with a posterior: the sizes of a normal prior and of the noise make the measurements most likely.

    MacKay 1992, Neural Computation 4(3), "Bayesian interpolation"; updates as in Tipping 2001, JMLR 1. No
    cross-validation. Units that always went together share their effect and its posterior standard deviation. Constant
    utilities are most likely if every importance is exactly zero: then the spread is zero as well.

    Where we differ: the fit runs in at most M coordinates (`Patterns.rotated`); the covariance [U, U] is never made.
    With V the directions, s_k the posterior variances of their coefficients, which are independent, and q_p the prior
    variances, the variance of a pattern's effect is q_p (sum_k V_pk^2 s_k + (1 - sum_k V_pk^2) / lambda), the second
    term for what no sub-model distinguishes.
    """

    name: ClassVar[str] = "bayes"
    gives_spread: ClassVar[bool] = True
    iterations: int = Field(1000, ge=1, description="Maximum number of updates of the two sizes.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import BayesianRidge

        if np.ptp(measurements.utility_M) == 0:
            num_units = measurements.keep_MU.shape[1]
            return Fit(np.zeros(num_units), {}, lambda: np.zeros(num_units))
        patterns = Patterns.of(measurements)
        coordinate_MK, weight_MK = patterns.rotated()
        # In units of order one, so that scikit-learn's hyperpriors, of size 1e-6, do not matter.
        feature_size = np.sqrt(np.square(coordinate_MK).sum() / len(coordinate_MK))
        utility_size = measurements.utility_M.std()
        unit = utility_size / feature_size
        model = BayesianRidge(max_iter=self.iterations, tol=1e-6)
        model.fit(coordinate_MK / feature_size, (measurements.utility_M - measurements.utility_M.mean()) / utility_size)
        details = {
            "noise": float(utility_size / np.sqrt(model.alpha_)),
            "prior_spread": float(unit / np.sqrt(model.lambda_)),
        }

        def spread() -> NDArray[np.float64]:
            value_KC = np.column_stack([model.sigma_.diagonal(), np.ones(len(model.coef_))])
            prior_P = patterns.prior_variance_P
            known_P, distinguished_P = patterns.squared(weight_MK, value_KC).T * prior_P
            variance_P = prior_P * (known_P + np.maximum(1 - distinguished_P, 0) / model.lambda_)
            return patterns.per_unit(np.sqrt(np.maximum(variance_P, 0)) * unit)

        return Fit(patterns.per_unit(patterns.effects(weight_MK @ model.coef_)) * unit, details, spread)
