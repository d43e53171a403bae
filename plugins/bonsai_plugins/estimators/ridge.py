"""Ridge regression."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements


class Ridge(Estimator):
    """Least squares with a squared penalty on the importances; its strength is chosen by cross-validation.

    Closed form (Cholesky), in the dual when there are fewer sub-models than units. The paper's regression:
    Dery et al. 2024, arXiv:2402.05406, eq. 3.
    """

    name: ClassVar[str] = "ridge"
    alphas: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2),
        min_length=1,
        description="Strengths to choose from, relative to the features' mean squared norm.",
    )
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import Ridge as SklearnRidge
        from sklearn.model_selection import GridSearchCV, GroupKFold

        keep_MU = measurements.keep_MU.astype(np.float64)
        keep_MU -= keep_MU.mean(axis=0)
        scale = np.square(keep_MU).sum() / len(keep_MU)
        search = GridSearchCV(
            SklearnRidge(solver="cholesky"),
            {"alpha": [alpha * scale for alpha in self.alphas]},
            scoring="neg_mean_squared_error",
            cv=GroupKFold(min(self.folds, len(np.unique(measurements.group_M)))),
        )
        search.fit(keep_MU, measurements.utility_M, groups=measurements.group_M)
        return Fit(search.best_estimator_.coef_, {"alpha": search.best_params_["alpha"] / scale})
