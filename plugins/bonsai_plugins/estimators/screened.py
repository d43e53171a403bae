"""Lasso paths over more features than can be held as numbers, of which only a few have effects.

Coordinate descent runs on a working set: the features with effects, and those whose products with the residual are too
large for having none. Products with all features are formed in blocks, for all lanes (folds) at once; they say which
features to add, and bound how far the solution is from the best one. Working sets as in Massias et al. 2018,
arXiv:1802.07481; the bound is the duality gap, by which scikit-learn stops too.

Shape legend: L lanes, A strengths, T sub-models of a lane, C candidates, W features of a working set, P all features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_plugins.estimators.patterns import Patterns

CANDIDATES = 1000
"""Features of a lane that are numbers at a time."""
ADDED = 300
"""Features that join a working set at a time."""
SLACK = 1e-4
"""By this fraction a product may be larger than the penalty: much less than the tolerances of the fits see."""


@dataclass(frozen=True)
class Sparse:
    """Coefficients that are not zero.

    Attributes:
        feature_W: their numbers, int64 [W].
        coefficient_W: float64 [W].
        residual_M: utilities less predictions, float64 [M], of all sub-models, those outside of the lane too.
    """

    feature_W: NDArray[np.int64]
    coefficient_W: NDArray[np.float64]
    residual_M: NDArray[np.float64]


def lasso_paths(
    patterns: Patterns,
    utility_M: NDArray[np.float64],
    lanes: Sequence[NDArray[np.intp]],
    alphas: NDArray[np.float64],
    *,
    tolerance: float,
    iterations: int,
) -> Iterator[list[Sparse]]:
    """The solution for every strength, from the largest on, in every lane: its sub-models, an intercept not penalised.

    Yields:
        For each strength one solution for each lane, with a duality gap of at most `tolerance` times the sum of the
        squared utilities, as by `sklearn.linear_model.Lasso`.
    """
    solvers = [_Lane(patterns, utility_M, rows, tolerance, iterations) for rows in lanes]
    product_PL = _products(patterns, solvers)
    for alpha in alphas:
        open_L = list(range(len(solvers)))
        while open_L := [n for n in open_L if not solvers[n].improve(float(alpha), product_PL[:, n])]:
            product_PL[:, open_L] = _products(patterns, [solvers[n] for n in open_L])
        yield [solver.solution() for solver in solvers]


def _products(patterns: Patterns, lanes: Sequence[_Lane]) -> NDArray[np.float32]:
    """Of all features with the lanes' residuals, [P, L]."""
    return patterns.products(np.stack([lane.own_residual_M for lane in lanes], axis=1))


class _Lane:
    """A lasso on some of the sub-models, strength after strength.

    Attributes:
        own_residual_M: utilities less predictions, float64 [M]; 0 outside of the lane.
    """

    def __init__(
        self,
        patterns: Patterns,
        utility_M: NDArray[np.float64],
        rows: NDArray[np.intp],
        tolerance: float,
        iterations: int,
    ) -> None:
        self._patterns, self._rows, self._tolerance, self._iterations = patterns, rows, tolerance, iterations
        self._utility_M = utility_M - utility_M[rows].mean()
        self._utility_T = self._utility_M[rows]
        self._goal = tolerance * float(self._utility_T @ self._utility_T)
        self._alpha = np.inf  # that the coefficients are for
        self._feature_W, self._coefficient_W = np.empty(0, np.int64), np.empty(0)
        self.own_residual_M = np.zeros(len(utility_M))
        self.own_residual_M[rows] = self._utility_T

    def improve(self, alpha: float, product_P: NDArray[np.float32]) -> bool:
        """Get closer to the solution, unless it has been reached, which is returned.

        Args:
            product_P: of all features with the residual.
        """
        penalty, size_P = alpha * len(self._rows), np.abs(product_P)
        largest = float(size_P.max())
        solved = alpha == self._alpha and largest <= penalty * (1 + SLACK)
        if solved or self._gap(penalty, largest, self.own_residual_M[self._rows], self._coefficient_W) <= self._goal:
            return True
        size_P[self._feature_W] = np.inf  # candidates always
        count = min(len(size_P), len(self._feature_W) + CANDIDATES)
        candidate_C = np.sort(np.argpartition(size_P, -count)[-count:])
        feature_CT = self._features(candidate_C)
        coefficient_C = np.zeros(count)
        coefficient_C[np.searchsorted(candidate_C, np.sort(self._feature_W))] = self._coefficient_W
        size_C, working_C = np.abs(product_P[candidate_C]).astype(np.float64), coefficient_C != 0
        while True:
            excess_C = np.where(working_C, 0.0, size_C - penalty)
            joining = np.argpartition(excess_C, -min(ADDED, count))[-ADDED:]
            working_C[joining[excess_C[joining] > 0]] = True
            working_CT = feature_CT[working_C].astype(np.float64)
            coefficient_C[working_C] = coefficient_W = self._solve(working_CT, coefficient_C[working_C], alpha)
            residual_T = self._utility_T - coefficient_W @ working_CT
            size_C = np.abs(feature_CT @ residual_T.astype(np.float32)).astype(np.float64)
            outside = float(size_C[~working_C].max(initial=0.0))
            gap = self._gap(penalty, float(size_C.max()), residual_T, coefficient_W)
            if outside <= penalty * (1 + SLACK) or gap <= self._goal * 3 / 4:
                break
            working_C = coefficient_C != 0
        self._alpha, self._feature_W = alpha, candidate_C[coefficient_C != 0]
        self._coefficient_W = coefficient_C[coefficient_C != 0]
        self.own_residual_M[self._rows] = residual_T
        return False

    def _solve(
        self, feature_WT: NDArray[np.float64], coefficient_W: NDArray[np.float64], alpha: float
    ) -> NDArray[np.float64]:
        """Coordinate descent on a few features, from some coefficients on."""
        from sklearn.linear_model import lasso_path

        found_W1 = lasso_path(
            feature_WT.T,
            self._utility_T,
            alphas=[alpha],
            coef_init=coefficient_W,
            precompute=False,
            check_input=False,
            tol=self._tolerance / 2,  # if not less than in `improve`, it could stay where that goes on for ever
            max_iter=self._iterations,
        )[1]
        return np.asarray(found_W1[:, 0])

    def _gap(
        self, penalty: float, largest: float, residual_T: NDArray[np.float64], coefficient_W: NDArray[np.float64]
    ) -> float:
        """How much lower the loss could at most be: the duality gap, for the largest product with the residual."""
        shrink = min(1.0, penalty / largest) if largest > 0 else 1.0
        absolute, product = float(np.abs(coefficient_W).sum()), float(residual_T @ self._utility_T)
        return float(residual_T @ residual_T) * (1 + shrink**2) / 2 + penalty * absolute - shrink * product

    def _features(self, feature_W: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some features of the lane's sub-models, less their mean, in single precision, float32 [W, T]."""
        keep_WT = self._patterns.keep_PM[feature_W][:, self._rows].astype(np.float32)
        return np.asarray(keep_WT - keep_WT.mean(axis=1, keepdims=True))

    def solution(self) -> Sparse:
        """The coefficients now."""
        predicted_M = self._coefficient_W @ self._patterns.keep_PM[self._feature_W]
        residual_M = self._utility_M - (predicted_M - predicted_M[self._rows].mean())
        return Sparse(self._feature_W, self._coefficient_W, residual_M)
