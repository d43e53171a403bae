"""Keep vectors that spend the same budget a little differently. Shape legend: B blocks, C chains of blocks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.chains import removal_chains, sums
from bonsai_core.selection.problem import SelectionProblem

CANDIDATES = 4
"""This many swaps are drawn for each that is made: the one that costs the lowest importance."""


class Swaps:
    """Swaps of budget between sites: one gets units back, another one gives up as many parameters.

    Within each site the order of removal stays, and so do the rules of selection, such as multiples of `round_to`.
    """

    def __init__(self, problem: SelectionProblem) -> None:
        self._alive_U = problem.alive_U
        self._chains = chains = removal_chains(problem)
        priced_U = _priced(problem.importance_U, problem.table.cost_U)
        self._importance_B = sums(priced_U[chains.unit_N], chains.size_B)
        self._smallest = int(chains.cost_B.min(initial=np.iinfo(np.int64).max))
        self._target = problem.params_to_remove
        # Of each chain, what its first 0, 1, ... blocks cost together.
        self._costs = [np.concatenate([[0], np.cumsum(cost_B)]) for cost_B in chains.by_chain(chains.cost_B)]

    def propose(self, keep_U: NDArray[np.bool_], num_swaps: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Another keep vector, some swaps away; the same one where nothing can be swapped."""
        chains = self._chains
        first_is_gone_B = ~keep_U[chains.unit_N[chains.start_B]]
        gone_C = np.array([gone_B.sum() for gone_B in chains.by_chain(first_is_gone_B)], dtype=np.int64)
        for _ in range(num_swaps if len(gone_C) > 1 else 0):
            drawn = [swapped for _ in range(CANDIDATES) if (swapped := self._swap(gone_C, rng)) is not None]
            if drawn:
                gone_C = min(drawn, key=self._importance_gone)
        proposed_U = self._alive_U.copy()
        proposed_U[chains.units(self._gone(gone_C))] = False
        return proposed_U

    def _swap(self, gone_C: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64] | None:
        """How many blocks of each chain are gone after one swap; None where the drawn one cannot be made."""
        giver, taker = rng.permutation(len(gone_C))[:2]
        amount = math.ceil(rng.uniform(0.25, 2.0) * self._target / len(gone_C))
        removed = sum(int(cost[gone]) for cost, gone in zip(self._costs, gone_C, strict=True))
        most = max(removed, self._target + self._smallest - 1)  # the budget is not overshot by more than before
        given, taken = self._costs[giver][: gone_C[giver] + 1], self._costs[taker]
        # The last blocks of the giver that come to the amount, or all of them.
        giving = max(0, int(np.searchsorted(given, given[-1] - amount, side="right")) - 1)
        returned = int(given[-1] - given[giving])
        missing = self._target - (removed - returned)
        taking = gone_C[taker]
        if missing > 0:
            taking = min(len(taken) - 1, int(np.searchsorted(taken, taken[taking] + missing)))
        removed += int(taken[taking] - taken[gone_C[taker]]) - returned
        # The taker's last block may be larger than what was missing: the rest comes back to the giver.
        if removed > self._target:
            back = int(np.searchsorted(given, given[giving] - (removed - self._target)))
            removed, giving = removed - int(given[giving] - given[back]), back
        swapped_C = gone_C.copy()
        swapped_C[[giver, taker]] = giving, taking
        return swapped_C if returned and self._target <= removed <= most else None

    def _gone(self, gone_C: NDArray[np.int64]) -> NDArray[np.int64]:
        """The blocks that are gone, chain after chain."""
        pairs = zip(self._chains.first_C, gone_C, strict=True)
        return np.concatenate([gone_C[:0], *(first + np.arange(gone) for first, gone in pairs)])

    def _importance_gone(self, gone_C: NDArray[np.int64]) -> float:
        return float(np.add.accumulate(self._importance_B[self._gone(gone_C)])[-1])


def _priced(importance_U: NDArray[np.float64], cost_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Units that were not measured (NaN) cost as much as the most expensive that was: they go last here too."""
    measured_U = ~np.isnan(importance_U)
    per_cost = importance_U[measured_U] / np.maximum(cost_U[measured_U], 1)
    highest = float(per_cost.max()) if measured_U.any() else 0.0
    return np.where(measured_U, importance_U, highest * cost_U)
