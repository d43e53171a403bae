"""Lasso regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.cross_validated import can_be_cross_validated, grouped_folds, standardised
from bonsai_plugins.estimators.patterns import Patterns
from bonsai_plugins.estimators.screened import lasso_paths

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]
WHOLE = 2**22
"""Entries of the features up to which all are numbers at once: 32 MB."""
ITERATIONS = 10_000
RISING = 5
"""Strengths in a row with ever larger errors on held-out sub-models, after which weaker ones are not tried: they take
most of the time."""
TOLERANCE, SMALLEST = 1e-4, 1e-3
"""scikit-learn's defaults: the duality gap relative to the utilities, and the lowest strength to the highest."""


class Lasso(Estimator):
    """Least squares with an absolute penalty: most importances are exactly zero, and ordered by the prior.

    Tibshirani 1996; coordinate descent, strength chosen by cross-validation.
    """

    name: ClassVar[str] = "lasso"
    strengths: int = Field(20, ge=1, description="Strengths to choose from, on a logarithmic path.")
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        patterns = Patterns.of(measurements)
        utility_M, spread = standardised(measurements)
        folds = grouped_folds(measurements.group_M, self.folds)
        solve = self._whole if patterns.keep_PM.size <= WHOLE else self._screened
        coefficient_P, alpha = solve(patterns, utility_M, folds)
        return Fit(patterns.per_unit(coefficient_P * spread), {"alpha": alpha})

    def _whole(
        self, patterns: Patterns, utility_M: NDArray[np.float64], folds: Folds
    ) -> tuple[NDArray[np.float64], float]:
        """The coefficients and their strength, from features that are all numbers at once."""
        from sklearn.linear_model import LassoCV

        model = LassoCV(
            alphas=self.strengths,
            cv=folds,
            max_iter=ITERATIONS,
            random_state=0,  # scikit-learn 1.9 draws from the global generator even where it needs no randomness
        )
        model.fit(patterns.features(), utility_M)
        return model.coef_, float(model.alpha_)

    def _screened(
        self, patterns: Patterns, utility_M: NDArray[np.float64], folds: Folds
    ) -> tuple[NDArray[np.float64], float]:
        """The same of many features, to the same tolerance, from the same strengths up to where errors only rise."""
        largest = float(np.abs(patterns.combined(utility_M)).max()) / len(utility_M)
        alphas = np.geomspace(largest, largest * SMALLEST, self.strengths)
        lanes = [*(train for train, _ in folds), np.arange(len(utility_M))]
        error_A: list[float] = []
        for solutions in lasso_paths(patterns, utility_M, lanes, alphas, tolerance=TOLERANCE, iterations=ITERATIONS):
            pairs = zip(solutions, folds, strict=False)  # the last lane is no fold
            error_A.append(float(np.mean([np.square(found.residual_M[test]).mean() for found, (_, test) in pairs])))
            if error_A[-1] < min(error_A[:-1], default=np.inf):
                chosen, alpha = solutions[-1], float(alphas[len(error_A) - 1])
            if len(error_A) > RISING and (np.diff(error_A[-RISING - 1 :]) > 0).all():
                break
        coefficient_P = np.zeros(len(patterns.keep_PM))
        coefficient_P[chosen.feature_W] = chosen.coefficient_W
        return coefficient_P, alpha
