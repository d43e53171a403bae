"""Sites first, then the prior's order, then single units as far as they improve predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated, grouped_folds
from bonsai_plugins.estimators.patterns import Patterns
from bonsai_plugins.estimators.ranks import rank_weight, site_share


class Hierarchical(CrossValidated):
    """One sensitivity per site, inside a site the prior's order, single units only as far as they improve predictions.

    1. Ridge of the utilities on the share of its perturbed weight that each site keeps: the effect of losing all of it,
       drawn towards the sites' common mean. Weights come from the prior's ranks, mean 1 within a site.
    2. Inside a site, units with a lower prior are less important, even if the site's effect is negative.
    3. Ridge of the residuals on single units; a share of it is added, the one with the highest Kendall tau on held-out
       sub-models. It is none if there are ties or fewer than three groups.

    Partial pooling as in multilevel models: Gelman and Hill 2007, chapter 12; added residual fits as in Friedman 2001,
    "Greedy function approximation". Where we differ: the share is chosen by rank correlation, since ranks decide.
    """

    name: ClassVar[str] = "hierarchical"
    blends: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 0.75, 1.0), description="Shares of the refinement per unit to choose from, besides none."
    )

    def fit(self, measurements: Measurements) -> Fit:
        if not can_be_cross_validated(measurements):
            return Fit(np.zeros(measurements.keep_MU.shape[1]))
        problem = _Problem.of(measurements)
        blend, details = self._blend(problem)
        levels = self._levels(problem, np.arange(len(measurements.keep_MU)))
        by_unit_U = problem.patterns.per_unit(problem.patterns.effects(levels.weight_M))
        return Fit(problem.by_site(levels.effect_S) + blend * by_unit_U, {"blend": blend, **details})

    def _levels(self, problem: _Problem, rows: NDArray[np.intp]) -> _Levels:
        """What sites are worth, and what single units add to them, from some of the sub-models."""
        measurements, kept_MS, both_MM = problem.measurements, problem.kept_MS, problem.patterns.both_MM
        utility_M, group_M = measurements.utility_M[rows], measurements.group_M[rows]
        common_MC = kept_MS[rows].sum(axis=1, keepdims=True)
        solution = self._search_around(common_MC, kept_MS[rows], utility_M, group_M)
        effect_S = solution.common_C[0] + solution.coefficient_K
        by_site_M = problem.kept_by_site(effect_S)
        refined = self._search_dual(both_MM[np.ix_(rows, rows)], utility_M - by_site_M[rows], group_M)
        weight_M = np.zeros(len(kept_MS))
        weight_M[rows] = refined.weight_M
        return _Levels(effect_S, weight_M, by_site_M, both_MM @ weight_M)

    def _blend(self, problem: _Problem) -> tuple[float, dict[str, float]]:
        """The share of the refinement that ranks held-out sub-models best, and how well it does."""
        from scipy.stats import kendalltau

        utility_M, group_M = problem.measurements.utility_M, problem.measurements.group_M
        num_groups = len(np.unique(group_M))
        if num_groups < 3:
            return 0.0, {}
        blends = np.array([0.0, *sorted(self.blends)])
        predicted_MB = np.empty((len(utility_M), len(blends)))
        for train, test in grouped_folds(group_M, self.folds):
            levels = self._levels(problem, train)
            by_site_M, by_unit_M = (kept_M - kept_M[train].mean() for kept_M in (levels.by_site_M, levels.by_unit_M))
            predicted_MB[test] = utility_M[train].mean() + by_site_M[test, None] + np.outer(by_unit_M[test], blends)
        # A constant prediction ranks nothing, and has no tau.
        tau_B = np.nan_to_num([kendalltau(predicted_M, utility_M).statistic for predicted_M in predicted_MB.T])
        best = int(np.argmax(tau_B))
        return float(blends[best]), {"held_out_tau": float(tau_B[best]), "held_out_tau_of_sites": float(tau_B[0])}


@dataclass(frozen=True)
class _Levels:
    """What some of the sub-models say.

    Attributes:
        effect_S: float64 [S]; of losing all of a site.
        weight_M: float64 [M]; the refinement per unit, as in `DualSolution`.
        by_site_M: float64 [M]; what each sub-model keeps of what the sites are worth.
        by_unit_M: float64 [M]; what each sub-model keeps of the refinement.
    """

    effect_S: NDArray[np.float64]
    weight_M: NDArray[np.float64]
    by_site_M: NDArray[np.float64]
    by_unit_M: NDArray[np.float64]


@dataclass(frozen=True)
class _Problem:
    """What every fit to some of the sub-models starts from.

    Attributes:
        site_U: int64 [U]; sites numbered from 0.
        weight_U: float64 [U]; from the prior's ranks, mean 1 within a site.
        share_U: float64 [U]; the unit's part of its site's parameters.
        kept_MS: float64 [M, S]; the share of its weight that each site keeps.
        kept_share_MS: float64 [M, S]; the share of its parameters that each site keeps.
    """

    measurements: Measurements
    site_U: NDArray[np.int64]
    weight_U: NDArray[np.float64]
    share_U: NDArray[np.float64]
    kept_MS: NDArray[np.float64]
    kept_share_MS: NDArray[np.float64]
    patterns: Patterns

    @classmethod
    def of(cls, measurements: Measurements) -> _Problem:
        site_U = np.unique(measurements.site_U, return_inverse=True)[1].astype(np.int64)
        weight_U = rank_weight(measurements)
        share_U = site_share(measurements)
        share_UC = np.column_stack([weight_U * share_U, share_U])
        insides = [site_U == site for site in range(site_U.max() + 1)]
        kept_MCS = np.stack([measurements.columns(inside).kept(share_UC[inside]) for inside in insides], axis=2)
        patterns = Patterns.of(measurements)
        return cls(measurements, site_U, weight_U, share_U, kept_MCS[:, 0], kept_MCS[:, 1], patterns)

    def by_site(self, effect_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """Importances by site and, inside a site, by the prior's order, float64 [U]."""
        effect_U = effect_S[self.site_U]
        return np.asarray((effect_U + np.abs(effect_U) * (self.weight_U - 1)) * self.share_U)

    def kept_by_site(self, effect_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each sub-model keeps of these importances, float64 [M]."""
        size_S = np.abs(effect_S)
        return np.asarray(self.kept_share_MS @ (effect_S - size_S) + self.kept_MS @ size_S)
