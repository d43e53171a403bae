"""Whole sub-layers and layers in sub-models: which of them are dropped, and what that says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Draw, SampleRequest
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.wholes import mean_prior
from bonsai_core.units import Whole

WHOLES_STREAM = 3
SHARE = 1 / 3
"""Of the sub-models, for wholes, where single units take part too."""


@dataclass(frozen=True)
class WholeDrops:
    """Sub-models of a round that lose wholes, and nothing else.

    As with single units, only the lowest 2p by prior are perturbed, where p is what the round will remove: a layer that
    the model cannot do without would drown what there is to learn of the others. Every sub-model loses about p of them,
    in a random order without replacement, so that in the end all have been dropped about equally often.

    Where single units take part too, a third of the sub-models is for wholes. The others are the sampler's, and as they
    would be without wholes: the large effects of wholes would drown what there is to learn of single units, and half a
    window for each of the two would leave neither enough to choose from.

    Attributes:
        wholes: those that may leave by the rules.
        drawn: those of them that sub-models lose.
        alive_U: bool [U].
        count: how many every sub-model loses.
        num_submodels: how many sub-models lose wholes.
        seed: of the order: the run's, and the round's number.
    """

    wholes: Sequence[Whole]
    drawn: Sequence[Whole]
    alive_U: NDArray[np.bool_]
    count: int
    num_submodels: int
    seed: tuple[int, int]

    @classmethod
    def of(cls, request: SampleRequest, rules: Rules, seed: tuple[int, int]) -> tuple[SampleRequest, WholeDrops]:
        """The drops of a round, and what the sampler is asked for: the sub-models that are left."""
        wholes, alive_U, table = rules.wholes(request.table), request.alive_U, request.table
        groups: dict[str, list[_Candidate]] = {}  # layers, attentions and MLPs: their priors cannot be compared
        for whole in wholes:
            units = whole.units[alive_U[whole.units]]
            if len(units):
                candidate = _Candidate(whole, table.params_of(units), mean_prior(table, units, request.prior_U))
                groups.setdefault("layer" if whole.is_layer else whole.name.rpartition(".")[2], []).append(candidate)
        goal = request.drop_fraction * int(table.cost_U[alive_U & rules.may_leave(table)].sum())
        total = sum(candidate.cost for group in groups.values() for candidate in group)
        drawn = [candidate for group in groups.values() for candidate in _window(group, 2 * goal, total)]
        if len(drawn) < 2 or goal == 0:
            return request, cls(wholes, (), alive_U, 0, 0, seed)
        count = round(goal / float(np.mean([candidate.cost for candidate in drawn])))
        count = min(max(1, count), len(drawn) // 2)
        total, sampler_too = request.num_submodels, any(rules.divides(site) for site in table)
        num_submodels = 2 * round(total * SHARE / 2) if sampler_too else total
        whole_drops = cls(wholes, [candidate.whole for candidate in drawn], alive_U, count, num_submodels, seed)
        return replace(request, num_submodels=total - num_submodels), whole_drops

    def draw(self) -> Draw:
        """The sub-models that lose wholes; consecutive ones lose others, and are a pair."""
        keep_MU = np.repeat(self.alive_U[None], self.num_submodels, axis=0)
        for number, keep_U in enumerate(keep_MU):
            for turn in range(number * self.count, (number + 1) * self.count):
                keep_U[self._at_turn(turn).units] = False
        return Draw(keep_MU, np.arange(self.num_submodels) // 2)

    def importance(self, importance_U: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of all living units of each whole together, float64 [W]; NaN where not all of them were measured."""
        return np.array([importance_U[whole.units][self.alive_U[whole.units]].sum() for whole in self.wholes])

    def left_by(self, keep_U: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The living units except those of wholes that a keep vector drops, bool [U]."""
        left_U = self.alive_U.copy()
        for whole in self.wholes:
            left_U[whole.units] &= keep_U[whole.units].any()
        return left_U

    def _at_turn(self, turn: int) -> Whole:
        """The whole whose turn it is, by consecutive permutations of all that are drawn."""
        block, position = divmod(turn, len(self.drawn))
        order = np.random.default_rng([*self.seed, WHOLES_STREAM, block]).permutation(len(self.drawn))
        return self.drawn[int(order[position])]


class _Candidate(NamedTuple):
    """A whole, the parameters that its living units free, and their mean prior."""

    whole: Whole
    cost: int
    prior: float


def _window(group: list[_Candidate], goal: float, total: int) -> list[_Candidate]:
    """The lowest of a group by prior: its share of the goal, but at least two; all if the priors are equal."""
    if len({candidate.prior for candidate in group}) <= 1:
        return group
    of_group, cost = sum(candidate.cost for candidate in group), 0
    window: list[_Candidate] = []
    for candidate in sorted(group, key=lambda candidate: candidate.prior):
        if len(window) >= 2 and cost >= goal * of_group / total:
            break
        window.append(candidate)
        cost += candidate.cost
    return window
