"""Units that always went together, and few coordinates in place of many columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Patterns:
    """Sub-models as features of a regression with the same squared penalty on every unit's importance.

    Units that always went together share one importance: they are one feature, for exact ties and for speed. With P
    patterns of several units each, a penalty on the units' importances is one on sqrt(size) times the shared one.

    Attributes:
        feature_MP: float64 [M, P]; kept or not, less the mean, times sqrt(size).
        pattern_U: int64 [U]; which pattern a unit belongs to.
        size_P: int64 [P]; how many units share a pattern.
    """

    feature_MP: NDArray[np.float64]
    pattern_U: NDArray[np.intp]
    size_P: NDArray[np.intp]

    @classmethod
    def of(cls, keep_MU: NDArray[np.bool_]) -> Patterns:
        """The patterns of keep vectors, bool [M, U]."""
        pattern_MP, pattern_U, size_P = np.unique(keep_MU, axis=1, return_inverse=True, return_counts=True)
        feature_MP = (pattern_MP - pattern_MP.mean(axis=0)) * np.sqrt(size_P)
        return cls(feature_MP, pattern_U.ravel(), size_P)

    def per_unit(self, coefficient_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """The importance of every unit, float64 [U], from the features' coefficients."""
        return np.asarray((coefficient_P / np.sqrt(self.size_P))[self.pattern_U])

    def rotated(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same features in at most M coordinates, and the way back.

        A squared penalty (an isotropic normal prior) does not change under rotation, so a fit to M coordinates is the
        fit to all P features, for the price of one singular value decomposition.

        Returns:
            coordinate_MK: features @ direction, float64 [M, K].
            direction_PK: orthonormal columns, float64 [P, K]; direction @ a fit's coefficients gives the features'.
        """
        left_MK, size_K, direction_KP = np.linalg.svd(self.feature_MP, full_matrices=False)
        used_K = size_K > size_K[0] * max(self.feature_MP.shape) * np.finfo(np.float64).eps
        return left_MK[:, used_K] * size_K[used_K], direction_KP[used_K].T
