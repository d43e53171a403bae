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

    Every sub-model loses about the share of the parameters that the round will remove, in wholes drawn in a random
    order without replacement: after as many sub-models as it takes all of them have been dropped equally often.

    Attributes:
        wholes: those that the rules let go; what is gone already is never drawn.
        alive_U: units alive, bool [U].
        count: how many every sub-model loses.
        seed: of the order: the run's, and the round's number.
    """

    wholes: Sequence[Whole]
    alive_U: NDArray[np.bool_]
    count: int
    seed: tuple[int, int]

    @classmethod
    def of(cls, request: SampleRequest, rules: Rules, seed: tuple[int, int]) -> tuple[SampleRequest, WholeDrops]:
        """The drops of a round, and what is left to the sampler: half of what goes, where both take part."""
        wholes, alive_U, cost_U = rules.wholes(request.table), request.alive_U, request.table.cost_U
        costs = [int(cost_U[w.units][alive_U[w.units]].sum()) for w in wholes if alive_U[w.units].any()]
        if not costs:
            return request, cls(wholes, alive_U, 0, seed)
        shared = any(kind in rules.units for kind in ("attention", "query", "mlp", "experts"))
        share = request.drop_fraction / 2 if shared else request.drop_fraction
        count = round(share * int(cost_U[alive_U].sum()) / float(np.mean(costs)))
        return replace(request, drop_fraction=share), cls(wholes, alive_U, min(max(1, count), len(costs)), seed)

    def dropped_from(self, keep_MU: NDArray[np.bool_], first: int) -> NDArray[np.bool_]:
        """Keep vectors of the sub-models from number `first` of the round on, with their wholes dropped."""
        keep_MU = keep_MU.copy()
        for number, keep_U in enumerate(keep_MU, start=first):
            for turn in range(number * self.count, (number + 1) * self.count):
                keep_U[self._drawn(turn).units] = False
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

    def _drawn(self, turn: int) -> Whole:
        """The whole whose turn it is: one permutation of all that are alive behind the other."""
        alive = [whole for whole in self.wholes if self.alive_U[whole.units].any()]
        block, position = divmod(turn, len(alive))
        order = np.random.default_rng([*self.seed, WHOLES_STREAM, block]).permutation(len(alive))
        return alive[int(order[position])]
