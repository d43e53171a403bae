"""Estimators: from measured sub-models to one importance per unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts.component import Component

BLOCK = 2**20
"""Entries of a keep matrix that are numbers at a time."""


@dataclass(frozen=True)
class Measurements:
    """What was measured in one round, over the units that at least one sub-model dropped.

    Attributes:
        keep_MU: bool [M, U]; every column holds both values.
        utility_M: float64 [M], finite; higher is better.
        group_M: int64 [M]; sub-models drawn together share a number.
        prior_U: float64 [U], non-negative; comparable within a site only.
        site_U: int64 [U]; which site a unit belongs to.
        cost_U: int64 [U]; parameters a unit frees, or what else the budget counts; at least 1.
    """

    keep_MU: NDArray[np.bool_]
    utility_M: NDArray[np.float64]
    group_M: NDArray[np.int64]
    prior_U: NDArray[np.float64]
    site_U: NDArray[np.int64]
    cost_U: NDArray[np.int64]

    @property
    def perturbed_U(self) -> NDArray[np.bool_]:
        """Units that one sub-model drops and another keeps, bool [U]; only these differ from the mean."""
        return np.asarray(self.keep_MU.any(axis=0) & ~self.keep_MU.all(axis=0))

    def rows(self, index: NDArray[np.intp]) -> Measurements:
        """The same units, fewer sub-models."""
        utility_M, group_M = self.utility_M[index], self.group_M[index]
        return replace(self, keep_MU=self.keep_MU[index], utility_M=utility_M, group_M=group_M)

    def columns(self, which_U: NDArray[np.bool_]) -> Measurements:
        """The same sub-models, fewer units."""
        if which_U.all():
            return self
        prior_U, site_U, cost_U = self.prior_U[which_U], self.site_U[which_U], self.cost_U[which_U]
        return replace(self, keep_MU=self.keep_MU[:, which_U], prior_U=prior_U, site_U=site_U, cost_U=cost_U)

    def kept(self, value_UC: NDArray[np.float64], usual_U: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """What each sub-model keeps of some values, float64 [M, C]; of values [U], [M].

        This is `keep_MU @ value_UC`, for which NumPy would copy all of `keep_MU` to float64.

        Args:
            usual_U: the share of each unit that is usually kept: only the difference counts; None: 0.
        """
        usual_U = np.zeros(len(value_UC)) if usual_U is None else usual_U
        kept_MC = np.zeros((len(self.keep_MU), *value_UC.shape[1:]))
        step = max(1, BLOCK // max(1, len(self.keep_MU)))
        for first in range(0, len(value_UC), step):
            block = slice(first, first + step)
            kept_MC += (self.keep_MU[:, block] - usual_U[block]) @ value_UC[block]
        return kept_MC


@dataclass(frozen=True)
class Fit:
    """What an estimator learnt.

    Attributes:
        importance_U: float64 [U], finite; larger means keep. Ties are broken by the prior.
        details: numbers worth reporting (the chosen strength, say).
        spread: computes the posterior standard deviation of each importance, in the same unit, float64 [U], finite,
            non-negative; None unless the estimator `gives_spread`. Only sequential samplers ask for it, and it may take
            longer than the fit.
    """

    importance_U: NDArray[np.float64]
    details: Mapping[str, float] = field(default_factory=dict)
    spread: Callable[[], NDArray[np.float64]] | None = None


class Estimator(Component):
    """Regresses utilities on keep vectors.

    Attributes:
        needs_measurements: False if the importance comes from the prior alone; then no sub-model is measured, and `fit`
            gets M = 0 over all living units.
        gives_spread: True if every `Fit` has a spread, which sequential samplers need.
        minimum_tau: Kendall's tau to a planted ranking that its laws ask for with many sub-models. A control, which
            ranks worse on purpose, says less.
    """

    needs_measurements: ClassVar[bool] = True
    gives_spread: ClassVar[bool] = False
    minimum_tau: ClassVar[float] = 0.8

    @abstractmethod
    def fit(self, measurements: Measurements) -> Fit:
        """One importance per unit, from all measurements of a round."""
