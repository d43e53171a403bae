"""Keep vectors that spend the same budget a little differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import Block, removal_chains
from bonsai_core.units import UnitTable

CANDIDATES = 4
"""So many swaps are drawn for each that is taken: the one that costs least importance."""


class Swaps:
    """Swaps of budget between sites: one gets units back, another one gives up as many parameters.

    Within each site the order of removal stays, and so do the rules of selection, such as multiples of `round_to`.

    Args:
        table: the unit table.
        alive_U, importance_U, prior_U: as for `select`.
        sparsity: what has to be reached.
        rules: as for `select`.
    """

    def __init__(
        self,
        table: UnitTable,
        alive_U: NDArray[np.bool_],
        importance_U: NDArray[np.float64],
        prior_U: NDArray[np.float64],
        sparsity: float,
        rules: Rules,
    ) -> None:
        self._alive_U = alive_U
        self._importance_U = _priced(importance_U, table.cost_U)
        self._chains = [chain for chain in removal_chains(table, alive_U, importance_U, prior_U, rules) if chain]
        self._smallest = min((block.cost for chain in self._chains for block in chain), default=0)
        self._target = int(np.ceil(sparsity * table.decoder_params - 1e-6)) - table.removed_params(alive_U)

    def propose(self, keep_U: NDArray[np.bool_], num_swaps: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Another keep vector, some swaps away; the same one where nothing can be swapped."""
        gone_C = np.array([sum(not keep_U[block.units[0]] for block in chain) for chain in self._chains])
        for _ in range(num_swaps):
            drawn = [swapped for _ in range(CANDIDATES) if (swapped := self._swap(gone_C, rng)) is not None]
            if drawn:
                gone_C = min(drawn, key=self._importance_gone)
        proposed_U = self._alive_U.copy()
        for block in self._gone(gone_C):
            proposed_U[block.units] = False
        return proposed_U

    def _swap(self, gone_C: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64] | None:
        """How many blocks of each chain are gone after one swap; None where the drawn one cannot be made."""
        giver, taker = rng.permutation(len(self._chains))[:2] if len(self._chains) > 1 else (0, 0)
        amount = rng.uniform(0.25, 2.0) * self._target / len(self._chains)
        gone_C = gone_C.copy()
        removed = sum(block.cost for block in self._gone(gone_C))
        most = max(removed, self._target + self._smallest - 1)  # a budget is not overshot by more than there was
        returned = 0
        while gone_C[giver] and returned < amount:
            gone_C[giver] -= 1
            returned += self._chains[giver][gone_C[giver]].cost
        removed -= returned
        while removed < self._target and gone_C[taker] < len(self._chains[taker]):
            removed += self._chains[taker][gone_C[taker]].cost
            gone_C[taker] += 1
        # A taker's last block may be larger than what was missing: the rest comes back to the giver.
        while gone_C[giver] and removed - self._chains[giver][gone_C[giver] - 1].cost >= self._target:
            gone_C[giver] -= 1
            removed -= self._chains[giver][gone_C[giver]].cost
        return gone_C if returned and giver != taker and self._target <= removed <= most else None

    def _gone(self, gone_C: NDArray[np.int64]) -> list[Block]:
        return [block for chain, gone in zip(self._chains, gone_C, strict=True) for block in chain[:gone]]

    def _importance_gone(self, gone_C: NDArray[np.int64]) -> float:
        return float(sum(self._importance_U[block.units].sum() for block in self._gone(gone_C)))


def _priced(importance_U: NDArray[np.float64], cost_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Units that were not measured, NaN, are as dear as the dearest that were: selection lets them go last too."""
    measured_U = ~np.isnan(importance_U)
    dearest = float((importance_U[measured_U] / cost_U[measured_U]).max()) if measured_U.any() else 0.0
    return np.where(measured_U, importance_U, dearest * cost_U)
