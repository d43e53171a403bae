"""Elastic net regression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.cross_validated import can_be_cross_validated
from bonsai_plugins.estimators.patterns import Patterns

Floats = NDArray[np.float64]


class ElasticNet(Estimator):
    """Least squares with an absolute and a squared penalty: zeros as in lasso, and likes share as in ridge.

    Zou and Hastie 2005, J. R. Stat. Soc. B 67(2), eq. 3, with the objective and the path of scikit-learn's
    `ElasticNetCV`; strength and mixture chosen by cross-validation. Where we differ: units that always went together
    enter and leave as one, with the absolute penalty on the norm of their importances (group lasso, Yuan and Lin 2006);
    and the solver is a semismooth Newton method on the residuals (after Boschi et al. 2020, arXiv:2006.03970), since
    coordinate descent takes minutes for 40 sub-models of 50,000 units that all differ.
    """

    name: ClassVar[str] = "elastic"
    l1_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.9),
        min_length=1,
        description="Shares of the absolute penalty to choose from: near 0 is ridge, near 1 is lasso.",
    )
    strengths: int = Field(10, ge=1, description="Strengths to choose from, on a logarithmic path.")
    path: float = Field(1e-3, gt=0, lt=1, description="The least strength, as a fraction of the one that zeroes all.")
    folds: int = Field(5, ge=2, description="Cross-validation folds; sub-models drawn together stay together.")

    def fit(self, measurements: Measurements) -> Fit:
        from sklearn.model_selection import GroupKFold

        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        patterns = Patterns.of(measurements.keep_MU)
        feature_MP = patterns.feature_MP
        # The two penalties scale differently with the utilities: a mixture means the same only in one unit.
        spread = measurements.utility_M.std()
        utility_M = (measurements.utility_M - measurements.utility_M.mean()) / spread
        loudest = np.abs(utility_M @ feature_MP).max() / len(utility_M)
        paths = {
            ratio: loudest / ratio * (np.geomspace(1, self.path, self.strengths) if self.strengths > 1 else np.ones(1))
            for ratio in self.l1_ratios
        }
        error_RA = np.zeros((len(paths), self.strengths))
        folds = GroupKFold(min(self.folds, len(np.unique(measurements.group_M))))
        for train, test in folds.split(utility_M, groups=measurements.group_M):
            mean_P, mean = feature_MP[train].mean(axis=0), utility_M[train].mean()
            train_MP = feature_MP[train] - mean_P
            for row, (ratio, alphas) in enumerate(paths.items()):
                for column, coefficient_P in enumerate(_path(train_MP, utility_M[train] - mean, ratio, alphas)):
                    predicted_M = mean + feature_MP[test] @ coefficient_P - mean_P @ coefficient_P
                    error_RA[row, column] += np.square(predicted_M - utility_M[test]).sum()
        row, column = divmod(int(np.argmin(error_RA)), self.strengths)
        ratio, alphas = list(paths.items())[row]
        *_, coefficient_P = _path(feature_MP, utility_M, ratio, alphas[: column + 1])
        return Fit(patterns.per_unit(coefficient_P * spread), {"alpha": float(alphas[column]), "l1_ratio": ratio})


def _path(feature_MP: Floats, utility_M: Floats, ratio: float, alphas: Floats) -> Iterator[Floats]:
    """Coefficients [P] at every strength, each solved from where the one before ended.

    They minimise |utility - feature @ b|^2 / (2 M) + alpha * (ratio |b|_1 + (1 - ratio) |b|^2 / 2).
    """
    residual_M = utility_M
    for alpha in alphas:
        absolute, squared = len(utility_M) * alpha * ratio, len(utility_M) * alpha * (1 - ratio)
        residual_M = _residual(feature_MP, utility_M, absolute, squared, residual_M)
        yield _soft(residual_M @ feature_MP, absolute) / squared


def _soft(value_P: Floats, threshold: float) -> Floats:
    return np.asarray(value_P - np.clip(value_P, -threshold, threshold))


def _residual(feature_MP: Floats, utility_M: Floats, absolute: float, squared: float, start_M: Floats) -> Floats:
    """What the best fit leaves over: the minimum of a convex, once differentiable, piecewise quadratic function.

    With r the residual and b(r) = soft(X' r, absolute) / squared, it is |r - y|^2 / 2 + squared |b(r)|^2 / 2, whose
    gradient r - y + X b(r) is zero where r is the residual of b(r). Newton's method with backtracking ends in a few
    steps.
    """

    def at(residual_M: Floats) -> tuple[Floats, float]:
        coefficient_P = _soft(residual_M @ feature_MP, absolute) / squared
        height = (np.square(residual_M - utility_M).sum() + squared * np.square(coefficient_P).sum()) / 2
        return coefficient_P, float(height)

    residual_M = start_M
    coefficient_P, height = at(residual_M)
    for _ in range(100):
        gradient_M = residual_M - utility_M + feature_MP @ coefficient_P
        if np.square(gradient_M).sum() <= 1e-16 * np.square(utility_M).sum():
            break
        step_M = _newton_step(feature_MP[:, coefficient_P != 0], squared, gradient_M)
        size, slope = 1.0, float(gradient_M @ step_M)
        while True:
            following_M = residual_M - size * step_M
            coefficient_P, following = at(following_M)
            if following <= height - 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-3:  # all that is left to gain is rounding
                return residual_M
        residual_M, height = following_M, following
    return residual_M


def _newton_step(active_MA: Floats, squared: float, gradient_M: Floats) -> Floats:
    """(1 + X_A X_A' / squared)^-1 gradient, in the smaller of the two sizes (Woodbury)."""
    rows, columns = active_MA.shape
    if columns == 0:
        return gradient_M
    if rows <= columns:
        return np.asarray(
            np.linalg.solve(np.eye(rows) + active_MA @ active_MA.T / squared, gradient_M), dtype=np.float64
        )
    inner_AA = squared * np.eye(columns) + active_MA.T @ active_MA
    return gradient_M - active_MA @ np.linalg.solve(inner_AA, active_MA.T @ gradient_M)
