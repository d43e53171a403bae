"""Ridge regression whose strength is chosen by cross-validation: what the ridge estimators share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Estimator, Measurements
from bonsai_plugins.estimators.patterns import centred_products

LOOSE = 1e4  # how much less a common direction is penalised than a feature


@dataclass(frozen=True)
class Solution:
    """Coefficients of the features and of the directions common to them, and the strength they were fitted with."""

    coefficient_K: NDArray[np.float64]
    alpha: float
    common_C: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class DualSolution:
    """Coefficients as a weighted sum of the sub-models' features, and the strength they were fitted with.

    Attributes:
        weight_M: float64 [M], 0 in total.
    """

    weight_M: NDArray[np.float64]
    alpha: float


class CrossValidated(Estimator):
    """A squared penalty on the features' coefficients, with the options that choose its strength."""

    alphas: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2),
        min_length=1,
        description="Strengths to choose from, relative to the features' mean squared norm.",
    )
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def _search_dual(
        self, both_MM: NDArray[np.float64], utility_M: NDArray[np.float64], group_M: NDArray[np.int64]
    ) -> DualSolution:
        """Ridge towards zero, of features of which only the products are known, not less their mean."""
        product_MM = centred_products(both_MM)
        scale = float(product_MM.trace()) / len(product_MM)
        if scale == 0:
            return DualSolution(np.zeros(len(utility_M)), max(self.alphas))
        folds = grouped_folds(group_M, self.folds)
        error_FA = [self._errors(both_MM, utility_M, train, test, scale) for train, test in folds]
        alpha = self.alphas[int(np.mean(error_FA, axis=0).argmin())]
        return DualSolution(_dual(product_MM, utility_M, alpha * scale), alpha)

    def _errors(
        self,
        both_MM: NDArray[np.float64],
        utility_M: NDArray[np.float64],
        train: NDArray[np.intp],
        test: NDArray[np.intp],
        scale: float,
    ) -> list[float]:
        """Mean squared errors on the sub-models of one fold, one for each of the strengths."""
        both_MT, mean = both_MM[:, train], utility_M[train].mean()
        product_TT, errors = centred_products(both_MT[train]), []
        for alpha in self.alphas:
            predicted_M = both_MT @ _dual(product_TT, utility_M[train], alpha * scale)
            error = mean + predicted_M[test] - predicted_M[train].mean() - utility_M[test]
            errors.append(float(np.square(error).mean()))
        return errors

    def _search_around(
        self,
        common_MC: NDArray[np.float64],
        feature_MK: NDArray[np.float64],
        utility_M: NDArray[np.float64],
        group_M: NDArray[np.int64],
    ) -> Solution:
        """Ridge towards common directions: additional features with almost no penalty.

        Their coefficients are never negative: a direction whose best coefficient is negative is left out.
        """
        feature_MK, common_MC = centred(feature_MK), centred(common_MC)
        scale, size_C = np.square(feature_MK).sum() / len(feature_MK), np.square(common_MC).mean(axis=0)
        used_C = (size_C > 0) & (scale > 0)
        common_C = np.zeros(len(used_C))
        while True:
            stretch_C = np.sqrt(LOOSE * scale / size_C[used_C])
            loose_MC = common_MC[:, used_C] * stretch_C
            solution = self._search_at(np.column_stack([loose_MC, feature_MK]), utility_M, group_M, scale)
            common_C[used_C] = solution.coefficient_K[: used_C.sum()] * stretch_C
            if (common_C >= 0).all():
                return Solution(solution.coefficient_K[used_C.sum() :], solution.alpha, common_C)
            used_C, common_C = used_C & (common_C >= 0), np.zeros(len(used_C))

    def _search_at(
        self, feature_MK: NDArray[np.float64], utility_M: NDArray[np.float64], group_M: NDArray[np.int64], scale: float
    ) -> Solution:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV

        if scale == 0:
            return Solution(np.zeros(feature_MK.shape[1]), max(self.alphas))
        search = GridSearchCV(
            Ridge(solver="cholesky"),
            {"alpha": [alpha * scale for alpha in self.alphas]},
            scoring="neg_mean_squared_error",
            cv=grouped_folds(group_M, self.folds),
        )
        search.fit(feature_MK, utility_M)
        return Solution(search.best_estimator_.coef_, float(search.best_params_["alpha"] / scale))


def _dual(product_MM: NDArray[np.float64], utility_M: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """Weights of the sub-models' features: ridge in the dual, float64 [M], 0 in total."""
    from scipy.linalg import cho_factor, cho_solve

    penalised_MM = product_MM.copy()
    penalised_MM[np.diag_indices_from(penalised_MM)] += alpha
    weight_M = cho_solve(cho_factor(penalised_MM, overwrite_a=True), utility_M - utility_M.mean())
    return np.asarray(weight_M - weight_M.mean())


def can_be_cross_validated(measurements: Measurements) -> bool:
    """Whether the utilities differ, and there are two groups to choose the strength by."""
    return len(np.unique(measurements.group_M)) >= 2 and bool(np.ptp(measurements.utility_M) > 0)


def grouped_folds(group_M: NDArray[np.int64], folds: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """(training, test) rows of every fold; sub-models drawn together stay together."""
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(min(folds, len(np.unique(group_M))))
    return list(splitter.split(group_M, groups=group_M))


def standardised(measurements: Measurements) -> tuple[NDArray[np.float64], float]:
    """Utilities with mean 0 and standard deviation 1, float64 [M], and the deviation they had."""
    spread = float(measurements.utility_M.std())
    return (measurements.utility_M - measurements.utility_M.mean()) / spread, spread


def centred(feature_MK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features less their mean; exactly zero if they vary by rounding only."""
    deviation_MK = feature_MK - feature_MK.mean(axis=0)
    varies_K = np.abs(deviation_MK).max(axis=0) > 1e-9 * np.abs(feature_MK).max(axis=0)
    return np.asarray(deviation_MK * varies_K)
