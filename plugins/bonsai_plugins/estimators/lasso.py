"""Lasso regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.cross_validated import can_be_cross_validated, grouped_folds, standardised
from bonsai_plugins.estimators.patterns import Patterns


class Lasso(Estimator):
    """Least squares with an absolute penalty: most importances are exactly zero, and ordered by the prior.

    Tibshirani 1996; coordinate descent, strength chosen by cross-validation.
    """

    name: ClassVar[str] = "lasso"
    strengths: int = Field(20, ge=1, description="Strengths to choose from, on a logarithmic path.")
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import LassoCV

        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        patterns = Patterns.of(measurements)
        model = LassoCV(
            alphas=self.strengths,
            cv=grouped_folds(measurements.group_M, self.folds),
            max_iter=10_000,
            random_state=0,  # scikit-learn 1.9 draws from the global generator even where it needs no randomness
        )
        utility_M, spread = standardised(measurements)
        model.fit(patterns.feature_MP, utility_M)
        return Fit(patterns.per_unit(model.coef_ * spread), {"alpha": float(model.alpha_)})
