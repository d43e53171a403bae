"""Whole sub-layers and layers in sub-models: which of them are dropped, and what that says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.selection import Rules
from bonsai_core.units import Whole

WHOLES_STREAM = 3


@dataclass(frozen=True)
class WholeDrops:
    """Drops wholes from a round's sub-models, on top of what the sampler drops of single units.

    As with single units, only the least 2p by prior are perturbed, where p is what the round will remove: a layer that
    the model cannot do without would drown what there is to learn of the others. Every sub-model loses about p of them,
    in a random order without replacement: after as many sub-models as it takes, all have been dropped equally often.

    Attributes:
        wholes: those that the rules let go.
        drawn: those of them that sub-models lose.
        alive_U: units alive, bool [U].
        count: how many every sub-model loses.
        seed: of the order: the run's, and the round's number.
    """

    wholes: Sequence[Whole]
    drawn: Sequence[Whole]
    alive_U: NDArray[np.bool_]
    count: int
    seed: tuple[int, int]

    @classmethod
    def of(cls, request: SampleRequest, rules: Rules, seed: tuple[int, int]) -> tuple[SampleRequest, WholeDrops]:
        """The drops of a round, and what is left to the sampler: half of what goes, where both take part."""
        wholes, alive_U = rules.wholes(request.table), request.alive_U
        alive = [whole for whole in wholes if alive_U[whole.units].any()]
        if not alive:
            return request, cls(wholes, (), alive_U, 0, seed)
        shared = any(kind in rules.units for kind in ("attention", "query", "mlp", "experts"))
        share = request.drop_fraction / 2 if shared else request.drop_fraction
        goal = share * int(request.table.cost_U[alive_U].sum())
        drawn = [
            w for kind in ("sublayer", "layer") for w in _window([a for a in alive if a.kind == kind], request, goal)
        ]
        count = round(goal / float(np.mean([_cost(whole, request) for whole in drawn])))
        return replace(request, drop_fraction=share), cls(wholes, drawn, alive_U, min(max(1, count), len(drawn)), seed)

    def dropped_from(self, keep_MU: NDArray[np.bool_], first: int) -> NDArray[np.bool_]:
        """Keep vectors of the sub-models from number `first` of the round on, with their wholes dropped."""
        keep_MU = keep_MU.copy()
        for number, keep_U in enumerate(keep_MU, start=first):
            for turn in range(number * self.count, (number + 1) * self.count):
                keep_U[self._at_turn(turn).units] = False
        return keep_MU

    def importance(self, importance_U: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of all living units of each whole together, float64 [W]; NaN where not all of them were measured."""
        return np.array([importance_U[whole.units][self.alive_U[whole.units]].sum() for whole in self.wholes])

    def left_by(self, keep_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The living units but those of wholes that a keep vector drops, bool [U]."""
        left_U = self.alive_U.copy()
        for whole in self.wholes:
            left_U[whole.units] &= keep_U[whole.units].any()
        return left_U

    def _at_turn(self, turn: int) -> Whole:
        """The whole whose turn it is: one permutation of all that are drawn behind the other."""
        block, position = divmod(turn, len(self.drawn))
        order = np.random.default_rng([*self.seed, WHOLES_STREAM, block]).permutation(len(self.drawn))
        return self.drawn[int(order[position])]


def _window(alive: Sequence[Whole], request: SampleRequest, goal: float) -> list[Whole]:
    """The least by mean prior: twice the goal, at least two; all of them where the prior tells none apart."""
    scores = [_prior(whole, request) for whole in alive]
    if len(set(scores)) <= 1:
        return list(alive)
    window: list[Whole] = []
    for index in np.argsort(scores, kind="stable"):
        if len(window) >= 2 and sum(_cost(whole, request) for whole in window) >= 2 * goal:
            break
        window.append(alive[int(index)])
    return window


def _prior(whole: Whole, request: SampleRequest) -> float:
    """Mean prior of a whole's living units, but for what belongs to the layer alone, which priors do not score."""
    scored = np.array([site.kind != "layer" for site in request.table])[request.table.site_U[whole.units]]
    living = whole.units[scored & request.alive_U[whole.units]]
    return float(request.prior_U[living].mean()) if len(living) else 0.0


def _cost(whole: Whole, request: SampleRequest) -> int:
    return int(request.table.cost_U[whole.units][request.alive_U[whole.units]].sum())
