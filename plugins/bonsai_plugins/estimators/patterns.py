"""Units that were always dropped together, as one feature of a regression. P patterns, K coordinates, C columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Measurements

BLOCK = 2**20
"""Entries of the features that are numbers at a time: 8 MB."""
CACHED = 2**17
"""The same for products with a few vectors, which cost less than fetching the numbers unless these are in cache."""


@dataclass(frozen=True)
class Patterns:
    """Sub-models as features of a regression: one feature for all units that were always dropped together.

    Such units cannot be distinguished: a fit finds their joint effect, and they share it in proportion to their
    parameters. The penalty is on the joint effect. If it were on each unit's share, a window of 300 channels could have
    17 times the effect of a window of one head at the same penalty, and few sub-models would teach only the windows'
    sizes.

    The penalty on an effect is in proportion to how much its feature varies. Most are kept by half of the sub-models;
    one that is seldom dropped (a window that only some pairs have, a layer) would be drawn towards zero more than
    they are, and so look cheaper, for no other reason than having been measured less.

    A feature is what the sub-models keep of a pattern, 1 or 0, less the mean. There may be hundreds of thousands, so
    they are stored as bools, and turned into numbers in blocks.

    Attributes:
        keep_PM: bool [P, M]; a row for each pattern, in lexicographic order.
        pattern_U: int64 [U]; which pattern a unit belongs to.
        share_U: float64 [U]; the unit's share of its pattern's parameters.
    """

    keep_PM: NDArray[np.bool_]
    pattern_U: NDArray[np.intp]
    share_U: NDArray[np.float64]

    @classmethod
    def of(cls, measurements: Measurements) -> Patterns:
        """The patterns of the measured sub-models."""
        keep_MU = measurements.keep_MU
        bits_UB = np.concatenate([np.packbits(keep_UM.copy(), axis=1) for keep_UM in _blocks(keep_MU.T)])
        whole_U = bits_UB.view(np.dtype((np.void, bits_UB.shape[1])))[:, 0]  # compared byte by byte
        _, first_P, pattern_U = np.unique(whole_U, return_index=True, return_inverse=True)
        keep_PM = np.unpackbits(bits_UB[first_P], axis=1, count=len(keep_MU)).view(np.bool_)
        share_U = measurements.cost_U / np.bincount(pattern_U, measurements.cost_U)[pattern_U]
        return cls(keep_PM, pattern_U, share_U)

    @cached_property
    def prior_variance_P(self) -> NDArray[np.float64]:
        """Of the patterns' effects, float64 [P], relative to that of one which half of the sub-models keep."""
        kept_P = self.keep_PM.mean(axis=1)
        variance_P = kept_P * (1 - kept_P)
        return np.asarray(np.divide(0.25, variance_P, out=np.ones(len(variance_P)), where=variance_P > 0))

    def features(self) -> NDArray[np.float64]:
        """All features as numbers, float64 [M, P]: for methods that need them so, if there are few."""
        return np.asarray(self.keep_PM.T - self.keep_PM.mean(axis=1))

    def per_unit(self, value_P: NDArray[np.float64]) -> NDArray[np.float64]:
        """Every unit's share, float64 [U], of an effect of its pattern, or of the effect's standard deviation."""
        return np.asarray(value_P[self.pattern_U] * self.share_U)

    @cached_property
    def both_MM(self) -> NDArray[np.float64]:
        """How many patterns two sub-models both keep, each counting as its prior variance.

        These are the products of features that are not centred; exact where all prior variances are 1.
        """
        # Counts in a block are exact in single precision: there are fewer than 2**24.
        varies = bool((self.prior_variance_P != 1).any())
        variance_P = self.prior_variance_P.astype(np.float64 if varies else np.float32)
        both_MM, first = np.zeros((self.keep_PM.shape[1],) * 2), 0
        for keep_PM in _blocks(self.keep_PM):
            number_PM, block = keep_PM.astype(variance_P.dtype), slice(first, first + len(keep_PM))
            both_MM += number_PM.T @ (number_PM * variance_P[block, None] if varies else number_PM)
            first = block.stop
        return both_MM

    def combined(self, weight_MC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of the sub-models' features, weighted, float64 [P, C]; of weights [M], [P]."""
        centred_MC = weight_MC - weight_MC.mean(axis=0)  # instead of the features: the sums are the same
        return np.concatenate([keep_PM @ centred_MC for keep_PM in _blocks(self.keep_PM)])

    def effects(self, weight_MC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the patterns, in a fit with a squared penalty whose dual solution is this, float64 [P, C]; of [M], [P]."""
        return np.asarray((self.combined(weight_MC).T * self.prior_variance_P).T)

    def squared(self, weight_MK: NDArray[np.float64], value_KC: NDArray[np.float64]) -> NDArray[np.float64]:
        """`np.square(combined(weight_MK)) @ value_KC`, of which the first is too large to be held, float64 [P, C]."""
        centred_MK = weight_MK - weight_MK.mean(axis=0)
        return np.concatenate([np.square(keep_PM @ centred_MK) @ value_KC for keep_PM in _blocks(self.keep_PM)])

    def products(self, value_ML: NDArray[np.float64]) -> NDArray[np.float32]:
        """Of what the sub-models keep with some values, in single precision, float32 [P, L]."""
        number_ML = value_ML.astype(np.float32)
        return np.concatenate([keep_PM.astype(np.float32) @ number_ML for keep_PM in _blocks(self.keep_PM, CACHED)])

    def rotated(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The same features in at most M coordinates, and the way back.

        A squared penalty (an isotropic normal prior) does not change under rotation, so a fit to M coordinates is the
        fit to all P features, times the roots of their prior variances, for the price of one eigenvalue decomposition.

        Returns:
            coordinate_MK: float64 [M, K]; the columns are orthogonal.
            weight_MK: `effects(weight_MK @ coefficient_K)` are the effects of a fit; `combined(weight_MK)` times
                the roots of the prior variances are the directions of the coordinates, orthonormal columns.
        """
        square_K, left_MK = np.linalg.eigh(centred_products(self.both_MM))
        used_K = square_K > square_K[-1] * 1e-12  # the rest is rounding
        size_K = np.sqrt(square_K[used_K])
        return left_MK[:, used_K] * size_K, left_MK[:, used_K] / size_K


def centred_products(both_MM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of sub-models' features less their mean, from those of features that are not centred."""
    deviation_MM = both_MM - both_MM.mean(axis=0)
    return np.asarray(deviation_MM - deviation_MM.mean(axis=1, keepdims=True))


def _blocks(keep_PM: NDArray[np.bool_], entries: int = BLOCK) -> Iterator[NDArray[np.bool_]]:
    """Some rows after others, so few that they may be held as numbers."""
    step = max(1, entries // keep_PM.shape[1])
    return (keep_PM[first : first + step] for first in range(0, len(keep_PM), step))
