"""Whole sub-layers and layers, which compete with the blocks of their own units.

What is left of one is a block that gets cheaper as its units leave.

Shape legend: W wholes, C chains, n blocks that leave consecutively.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.blocks import Rank, SiteBlock, Tier, WholeBlock
from bonsai_core.selection.chains import Chains
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.units import UnitTable

Number = TypeVar("Number", np.int64, np.float64)
ROUNDING = 1e-9
"""More than what sums of importances are off by, as a fraction of their terms."""


class Remainders:
    """What is left of the wholes that may leave, while a selection goes on.

    Args:
        keep_U: what the selection still keeps, bool [U]; the selection changes it.
    """

    def __init__(self, problem: SelectionProblem, chains: Chains, keep_U: NDArray[np.bool_]) -> None:
        self._problem = problem
        self._chains = chains
        self._keep_U = keep_U
        self._wholes = problem.rules.wholes(problem.table)
        num_wholes, first_units = len(self._wholes), chains.unit_N[chains.start_B[chains.first_C]]
        owned = [np.isin(first_units, whole.units) for whole in self._wholes]
        self._owns_WC = np.array(owned, dtype=bool).reshape(num_wholes, len(first_units))
        unmeasured_W, given_W = np.full(num_wholes, np.nan), problem.whole_importance_W
        self._importance_W = unmeasured_W if given_W is None else given_W.copy()
        self._cost_W, self._size_W, self._scored_W = (np.zeros(num_wholes, np.int64) for _ in range(3))
        self._prior_W, self._rounding_W = np.zeros(num_wholes), np.zeros(num_wholes)
        for number in range(num_wholes):
            self._count(number)
        self._look_up_allowed()
        self._by_cost = problem.rules.rank == "density"
        measured_B = chains.tier_B == Tier.MEASURED
        self._loss_B = np.where(measured_B, chains.importance_B, 0.0)  # what a block takes off its wholes' importance
        self._value_B = np.where(measured_B, chains.value_B, np.inf)  # measured wholes leave before unmeasured blocks

    def __len__(self) -> int:
        return len(self._wholes)

    def owned_chains(self, whole: WholeBlock) -> NDArray[np.bool_]:
        """Chains of its units, bool [C]."""
        owned_C: NDArray[np.bool_] = self._owns_WC[whole.rank.number]
        return owned_C

    def blocks(self, which_W: NDArray[np.bool_] | bool = True) -> list[WholeBlock]:
        """One for each whole that may leave and of which something is left."""
        return [self._block(int(number)) for number in np.flatnonzero(self._open_W & which_W)]

    def next(self, missing: int, before: SiteBlock | None) -> WholeBlock | None:
        """The lowest of those that cost no more than what is missing; None if `before` ranks lower still."""
        may_W = self._cost_W <= missing
        if before is not None and before.rank.tier == Tier.MEASURED:  # NaN, not measured, leave after all others
            per_W = self._cost_W if self._by_cost else self._size_W
            may_W &= self._importance_W / np.maximum(per_W, 1) <= before.rank.value
        lowest = min(self.blocks(may_W), key=attrgetter("rank"), default=None)
        return lowest if before is None or lowest is None or lowest.rank < before.rank else None

    def may_precede(self, blocks: NDArray[np.int64], missing: int) -> NDArray[np.bool_]:
        """Whether a whole leaves before a block of single units, if all blocks before that one leave, bool [n].

        False is certain. True may be wrong where it depends on the last digits of a mean prior.
        """
        chains, rivals = self._chains, self._rivals(blocks, missing)
        owns = self._owns_WC[rivals][:, chains.chain_B[blocks]]

        def left(whole_W: NDArray[Number], block_B: NDArray[Number]) -> NDArray[Number]:
            """What each whole has left before each block leaves, [W, n]."""
            taken = np.where(owns, block_B[blocks], block_B.dtype.type(0))[:, :-1]
            return np.subtract.accumulate(np.concatenate([whole_W[rivals, None], taken], axis=1), axis=1)

        cost, size = left(self._cost_W, chains.cost_B), left(self._size_W, chains.size_B)
        value = left(self._importance_W, self._loss_B) / np.maximum(cost if self._by_cost else size, 1)
        value_n = self._value_B[blocks]
        missing_n = missing - (np.cumsum(chains.cost_B[blocks]) - chains.cost_B[blocks])
        fits = (size > 0) & (cost <= missing_n)
        tied = fits & (value == value_n)
        precedes = np.asarray(fits & (value < value_n))
        if tied.any():
            prior = left(self._prior_W, chains.prior_B) - self._rounding_W[rivals, None]
            scored = np.maximum(left(self._scored_W, chains.size_B), 1)
            precedes |= tied & (prior / scored <= chains.tie_break_B[blocks])
        return np.asarray(precedes.any(axis=0))

    def _rivals(self, blocks: NDArray[np.int64], missing: int) -> NDArray[np.int64]:
        """Wholes that might leave before one of some blocks; bounds show that no other can get low enough."""
        chain_n, loss = self._chains.chain_B[blocks], self._loss_B[blocks]
        cost_W = self._cost_W - self._taken(chain_n, self._chains.cost_B[blocks])
        size_W = self._size_W - self._taken(chain_n, self._chains.size_B[blocks])
        terms_W = np.abs(self._importance_W) + self._taken(chain_n, np.abs(loss))
        lowest_W = self._importance_W - self._taken(chain_n, np.maximum(loss, 0.0)) - ROUNDING * terms_W
        before_W, after_W = (self._cost_W, cost_W) if self._by_cost else (self._size_W, size_W)
        value_W = lowest_W / np.maximum(np.where(lowest_W < 0, after_W, before_W), 1)
        highest = self._value_B[blocks].max(initial=-np.inf)
        return np.flatnonzero(self._open_W & (cost_W <= missing) & (value_W <= highest))

    def lose(self, blocks: NDArray[np.int64]) -> None:
        """Blocks of single units have left, in this order."""
        chains, chain_n = self._chains, self._chains.chain_B[blocks]
        size_W = self._taken(chain_n, chains.size_B[blocks])
        self._size_W -= size_W
        self._scored_W -= size_W
        self._cost_W -= self._taken(chain_n, chains.cost_B[blocks])
        self._prior_W -= self._taken(chain_n, chains.prior_B[blocks])
        for number in np.flatnonzero((size_W > 0) & ~np.isnan(self._importance_W)):
            losses = self._loss_B[blocks[self._owns_WC[number, chain_n]]]
            left = np.subtract.accumulate(np.concatenate([self._importance_W[[number]], losses]))
            self._importance_W[number] = left[-1]

    def _taken(self, chain_n: NDArray[np.int64], value_n: NDArray[Number]) -> NDArray[Number]:
        """The sum over each whole's part of some blocks, [W]."""
        value_C = np.bincount(chain_n, weights=value_n, minlength=self._owns_WC.shape[1])
        return (self._owns_WC @ value_C).astype(value_n.dtype)

    def lose_whole(self, gone: WholeBlock) -> None:
        """A whole has left, and with it parts of others."""
        left, importance = self._wholes[gone.rank.number], self._importance_W[gone.rank.number]
        for number, whole in enumerate(self._wholes):
            if whole.layer == left.layer:
                if np.isin(left.units, whole.units).all():
                    self._importance_W[number] -= 0 if np.isnan(importance) else importance
                self._count(number)
        self._look_up_allowed()

    @property
    def _open_W(self) -> NDArray[np.bool_]:
        return np.asarray(self._allowed_W & (self._cost_W > 0))

    def _look_up_allowed(self) -> None:
        """Which wholes may leave: layers only while enough of them stay."""
        table = self._problem.table
        stay = sum(table.layer_stays(layer, self._keep_U) for layer in table.layer_sites)
        minimum = self._problem.rules.minimum_layers(len(table.layer_sites))
        self._allowed_W = np.array([not whole.is_layer or stay > minimum for whole in self._wholes], dtype=bool)

    def _left_of(self, number: int) -> NDArray[np.int64]:
        units = self._wholes[number].units
        return units[self._keep_U[units]]

    def _count(self, number: int) -> None:
        """Look up what is left of a whole, and the largest rounding error that its sum of priors gets from now on."""
        table, units = self._problem.table, self._left_of(number)
        scored = units[table.scored_U[units]]
        prior = self._problem.prior_U[scored]
        self._cost_W[number], self._size_W[number] = table.params_of(units), len(units)
        self._scored_W[number], self._prior_W[number] = len(scored), prior.sum()
        self._rounding_W[number] = 4 * np.finfo(np.float64).eps * len(scored) * np.abs(prior).sum()

    def _block(self, number: int) -> WholeBlock:
        problem, units, cost = self._problem, self._left_of(number), int(self._cost_W[number])
        importance, prior = float(self._importance_W[number]), mean_prior(problem.table, units, problem.prior_U)
        if np.isnan(importance):
            return WholeBlock(Rank(Tier.UNMEASURED_WHOLE, prior, 0.0, False, number), cost, units, np.inf)
        per = cost if self._by_cost else len(units)
        value = importance / per
        return WholeBlock(Rank(Tier.MEASURED, value, prior, False, number), cost, units, value * per)


def mean_prior(table: UnitTable, units: NDArray[np.int64], prior_U: NDArray[np.float64]) -> float:
    """Of some units, except those that priors do not score (what belongs to layers alone); 0 if none is left."""
    scored = units[table.scored_U[units]]
    return float(prior_U[scored].mean()) if len(scored) else 0.0
