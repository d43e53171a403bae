"""The paper's stated future work: spends sub-models where the decision is open, and stops once it has settled."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Draw, Evidence, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import IN_TURN_HELP, LEVEL_HELP, Level, Windows, antithetic_pairs

TRIALS = 32


class Adaptive(Sampler):
    """First antithetic pairs; then the selections that follow from plausible importances.

    Each later sub-model removes what selection would remove under importances drawn from the estimator's posterior
    (Thompson 1933), or under its upper and lower confidence bounds; so units whose fate is decided do not change, and
    those around the cut are measured again and again. Pairs use opposite deviations. The round ends early when all
    draws would remove nearly the same parameters. Dery et al. 2024, arXiv:2402.05406, name it as future work; needs an
    estimator with a posterior (`bayes`).
    """

    name: ClassVar[str] = "adaptive"
    sequential: ClassVar[bool] = True
    level: Level = Field("auto", description=f"Of the first pairs: {LEVEL_HELP}")
    rule: Literal["thompson", "bounds"] = Field(
        "thompson", description="thompson: importances drawn from the posterior; bounds: its confidence bounds."
    )
    first: float = Field(0.5, gt=0, lt=1, description="Share of the sub-models drawn before anything is known.")
    batch: int = Field(4, ge=2, multiple_of=2, description="Sub-models between two fits.")
    settled: float = Field(
        0.95, gt=0, le=1, description="Stop once this share of the removed parameters is the same in every draw."
    )
    in_turn: bool = Field(False, description=IN_TURN_HELP)

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        evidence = request.evidence
        if evidence is None:
            draw = antithetic_pairs(
                request, Windows.of(request, rng, in_turn=self.in_turn), request.prior_U, self.level, rng
            )
            count = min(request.num_submodels, max(4, 2 * round(self.first * request.num_submodels / 2)))
            return Draw(draw.keep_MU[:count], draw.group_M[:count])
        if self._has_settled(request, evidence, rng):
            return Draw(np.zeros((0, len(request.table)), dtype=bool), np.zeros(0, dtype=np.int64))
        count = min(self.batch, request.num_submodels)
        pairs = range((count + 1) // 2)
        keeps = [
            _answer(request, evidence, sign * deviation_U)
            for deviation_U in (self._deviation(evidence, number / len(pairs), rng) for number in pairs)
            for sign in (1, -1)
        ]
        return Draw(np.stack(keeps)[:count], np.arange(count) // 2)

    def _deviation(self, evidence: Evidence, position: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """By how many standard deviations each importance deviates, [U]."""
        if self.rule == "bounds":
            return np.full(len(evidence.spread_U), 0.5 + 1.5 * position)
        return _posterior_deviation(evidence, rng)

    def _has_settled(self, request: SampleRequest, evidence: Evidence, rng: np.random.Generator) -> bool:
        expected_U = _answer(request, evidence, np.zeros(len(request.table)))
        gone = request.alive_U & ~expected_U
        cost_U = request.table.cost_U
        agreement = []
        for _ in range(TRIALS):
            drawn_U = _answer(request, evidence, _posterior_deviation(evidence, rng))
            agreement.append(cost_U[gone & ~drawn_U].sum() / max(1, cost_U[gone].sum()))
        return float(np.mean(agreement)) >= self.settled


def _posterior_deviation(evidence: Evidence, rng: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal numbers, [U]; the same for units that were always dropped together."""
    rows_UE = np.stack([evidence.importance_U, evidence.spread_U], axis=1)
    which_U = np.unique(rows_UE, axis=0, return_inverse=True)[1].ravel()
    return np.asarray(rng.standard_normal(which_U.max() + 1)[which_U])


def _answer(request: SampleRequest, evidence: Evidence, deviation_U: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The keep vector for importances that deviate by some standard deviations: the cheapest units go, up to p."""
    importance_U = evidence.importance_U + deviation_U * evidence.spread_U
    price_U = importance_U / np.maximum(request.table.cost_U, 1) if request.rank == "density" else importance_U
    ids = np.flatnonzero(request.alive_U & np.isfinite(importance_U))
    order = ids[np.lexsort((ids, request.prior_U[ids], price_U[ids]))]
    order = order[_spare(request, order)]
    cost = request.table.cost_U[order].cumsum()
    keep_U = request.alive_U.copy()
    keep_U[order[cost <= request.drop_fraction * request.table.cost_U[request.alive_U].sum()]] = False
    return keep_U


def _spare(request: SampleRequest, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the units in this order may go before their site is at its minimum, bool."""
    site_U = request.table.site_U
    left_S = np.bincount(site_U[request.alive_U], minlength=len(request.table.sites)) - request.minimum_S
    spare = np.zeros(len(order), dtype=bool)
    for position, site in enumerate(site_U[order]):
        spare[position] = left_S[site] > 0
        left_S[site] -= 1
    return spare
