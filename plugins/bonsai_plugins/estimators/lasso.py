"""Lasso regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements


class Lasso(Estimator):
    """Least squares with an absolute penalty: most importances become exactly zero, and the prior orders those.

    Tibshirani 1996; coordinate descent, strength chosen by cross-validation.
    """

    name: ClassVar[str] = "lasso"
    strengths: int = Field(20, ge=1, description="Strengths to choose from, on a logarithmic path.")
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import LassoCV
        from sklearn.model_selection import GroupKFold

        num_groups = len(np.unique(measurements.group_M))
        if np.ptp(measurements.utility_M) == 0 or num_groups < 2:  # nothing to learn, or to choose the strength by
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        utility_M = measurements.utility_M - measurements.utility_M.mean()
        spread = utility_M.std()
        keep_MU = measurements.keep_MU.astype(np.float64)
        folds = GroupKFold(min(self.folds, num_groups))
        model = LassoCV(
            alphas=self.strengths,
            cv=list(folds.split(keep_MU, groups=measurements.group_M)),
            max_iter=10_000,
            random_state=0,  # scikit-learn 1.9 draws from the global generator even where it needs no randomness
        )
        model.fit(keep_MU, utility_M / spread)
        return Fit(model.coef_ * spread, {"alpha": float(model.alpha_)})
