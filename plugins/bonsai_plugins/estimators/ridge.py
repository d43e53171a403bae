"""Ridge regression."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements


class Ridge(Estimator):
    """Least squares with a squared penalty on the importances; its strength is chosen by cross-validation.

    Closed form (Cholesky), in the dual when there are fewer sub-models than units. The paper's regression:
    Dery et al. 2024, arXiv:2402.05406, eq. 3.
    """

    name: ClassVar[str] = "ridge"
    alphas: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2),
        min_length=1,
        description="Strengths to choose from, relative to the features' mean squared norm.",
    )
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.linear_model import Ridge as SklearnRidge
        from sklearn.model_selection import GridSearchCV, GroupKFold

        num_groups = len(np.unique(measurements.group_M))
        if num_groups < 2 or np.ptp(measurements.utility_M) == 0:
            return Fit(np.zeros(measurements.keep_MU.shape[1]))  # nothing to learn: the prior orders
        # Units that always went together share one importance: fit them as one feature, for exact ties and for speed.
        pattern_MP, pattern_U, size_P = np.unique(measurements.keep_MU, axis=1, return_inverse=True, return_counts=True)
        feature_MP = (pattern_MP - pattern_MP.mean(axis=0)) * np.sqrt(size_P)
        scale = np.square(feature_MP).sum() / len(feature_MP)
        search = GridSearchCV(
            SklearnRidge(solver="cholesky"),
            {"alpha": [alpha * scale for alpha in self.alphas]},
            scoring="neg_mean_squared_error",
            cv=GroupKFold(min(self.folds, num_groups)),
        )
        search.fit(feature_MP, measurements.utility_M, groups=measurements.group_M)
        importance_P = search.best_estimator_.coef_ / np.sqrt(size_P)
        return Fit(importance_P[pattern_U.ravel()], {"alpha": float(search.best_params_["alpha"] / scale)})
