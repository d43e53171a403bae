"""Units that were always dropped together, and few coordinates in place of many columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Measurements


@dataclass(frozen=True)
class Patterns:
    """Sub-models as features of a regression: one feature for all units that were always dropped together.

    Such units cannot be distinguished: a fit finds their joint effect, and they share it in proportion to their
    parameters. The penalty is on the joint effect. If it were on each unit's share, a window of 300 channels could have
    17 times the effect of a window of one head at the same penalty, and few sub-models would teach only the windows'
    sizes.

    Attributes:
        feature_MP: float64 [M, P]; kept or not, less the mean.
        pattern_U: int64 [U]; which pattern a unit belongs to.
        share_U: float64 [U]; the unit's share of its pattern's parameters.
    """

    feature_MP: NDArray[np.float64]
    pattern_U: NDArray[np.intp]
    share_U: NDArray[np.float64]

    @classmethod
    def of(cls, measurements: Measurements) -> Patterns:
        """The patterns of the measured sub-models."""
        pattern_MP, pattern_U = np.unique(measurements.keep_MU, axis=1, return_inverse=True)
        pattern_U = pattern_U.ravel()
        share_U = measurements.cost_U / np.bincount(pattern_U, measurements.cost_U)[pattern_U]
        return cls(pattern_MP - pattern_MP.mean(axis=0), pattern_U, share_U)

    def per_unit(self, value_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """Every unit's share, float64 [U], of an effect of its pattern, or of the effect's standard deviation."""
        return np.asarray(value_P[self.pattern_U] * self.share_U)

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
