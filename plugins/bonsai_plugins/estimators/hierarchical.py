"""Sites first, then the prior's order, then single units as far as they improve predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Fit, Measurements
from bonsai_plugins.estimators.cross_validated import CrossValidated, can_be_cross_validated, centred, grouped_folds
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
        by_site_U, by_unit_U = self._levels(problem, np.arange(len(measurements.keep_MU)))
        return Fit(by_site_U + blend * by_unit_U, {"blend": blend, **details})

    def _levels(self, problem: _Problem, rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Importances by site and prior, and what single units add to them, from some of the sub-models."""
        measured, kept_MS = problem.measurements.rows(rows), problem.kept_MS[rows]
        solution = self._search_around(
            kept_MS.sum(axis=1, keepdims=True), kept_MS, measured.utility_M, measured.group_M
        )
        effect_U = (solution.common_C[0] + solution.coefficient_K)[problem.site_U]
        by_site_U = (effect_U + np.abs(effect_U) * (problem.weight_U - 1)) * problem.share_U
        left_M = measured.utility_M - measured.keep_MU @ by_site_U
        coordinate_MK = centred(problem.coordinate_MK[rows])
        coefficient_K = self._search(coordinate_MK, left_M, measured.group_M).coefficient_K
        return by_site_U, problem.patterns.per_unit(problem.direction_PK @ coefficient_K)

    def _blend(self, problem: _Problem) -> tuple[float, dict[str, float]]:
        """The share of the refinement that ranks held-out sub-models best, and how well it does."""
        from scipy.stats import kendalltau

        measurements = problem.measurements
        utility_M, group_M = measurements.utility_M, measurements.group_M
        num_groups = len(np.unique(group_M))
        if num_groups < 3:
            return 0.0, {}
        blends = np.array([0.0, *sorted(self.blends)])
        predicted_MB = np.empty((len(utility_M), len(blends)))
        for train, test in grouped_folds(group_M, self.folds):
            by_site_U, by_unit_U = self._levels(problem, train)
            deviation_MU = measurements.keep_MU[test] - measurements.keep_MU[train].mean(axis=0)
            predicted_MB[test] = (
                utility_M[train].mean()
                + (deviation_MU @ by_site_U)[:, None]
                + np.outer(deviation_MU @ by_unit_U, blends)
            )
        # A constant prediction ranks nothing, and has no tau.
        tau_B = np.nan_to_num([kendalltau(predicted_M, utility_M).statistic for predicted_M in predicted_MB.T])
        best = int(np.argmax(tau_B))
        return float(blends[best]), {"held_out_tau": float(tau_B[best]), "held_out_tau_of_sites": float(tau_B[0])}


@dataclass(frozen=True)
class _Problem:
    """What every fit to some of the sub-models starts from.

    Attributes:
        site_U: int64 [U]; sites numbered from 0.
        weight_U: float64 [U]; from the prior's ranks, mean 1 within a site.
        share_U: float64 [U]; the unit's part of its site's parameters.
        kept_MS: float64 [M, S]; the share of its weight that each site keeps.
    """

    measurements: Measurements
    site_U: NDArray[np.int64]
    weight_U: NDArray[np.float64]
    share_U: NDArray[np.float64]
    kept_MS: NDArray[np.float64]
    patterns: Patterns
    coordinate_MK: NDArray[np.float64]
    direction_PK: NDArray[np.float64]

    @classmethod
    def of(cls, measurements: Measurements) -> _Problem:
        site_U = np.unique(measurements.site_U, return_inverse=True)[1].astype(np.int64)
        weight_U = rank_weight(measurements)
        share_U = site_share(measurements)
        kept_MS = np.stack(
            [np.bincount(site_U, weight_U * share_U * keep_U) for keep_U in measurements.keep_MU], dtype=np.float64
        )
        patterns = Patterns.of(measurements)
        return cls(measurements, site_U, weight_U, share_U, kept_MS, patterns, *patterns.rotated())
