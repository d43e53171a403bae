"""Whole sub-layers and layers, which compete with the blocks of their own units: what is left of one is a block that
gets cheaper as its units leave.

Shape legend: W wholes, C chains, n blocks that leave consecutively.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.blocks import Rank, SiteBlock, Tier, WholeBlock
from bonsai_core.selection.chains import Chains
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.units import UnitTable

Number = TypeVar("Number", np.int64, np.float64)


class Remainders:
    """What is left of the wholes that may leave, while a selection goes on.

    Args:
        keep_U: what selection has left so far; it changes while this is used.
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
        self._minimum_layers = problem.rules.minimum_layers(len(problem.table.layer_sites))
        self._loss_B = np.where(np.isnan(chains.importance_B), 0.0, chains.importance_B)
        self._prior_B = chains.prior_B

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._wholes)

    def owned_chains(self, whole: WholeBlock) -> NDArray[np.bool_]:
        """Chains of its units, bool [C]."""
        owned_C: NDArray[np.bool_] = self._owns_WC[whole.rank.number]
        return owned_C

    def blocks(self) -> list[WholeBlock]:
        """One for each whole of which something is left and that may leave."""
        return [self._block(int(number)) for number in np.flatnonzero(self._allowed() & (self._size_W > 0))]

    def next(self, missing: int, before: SiteBlock | None) -> WholeBlock | None:
        """The lowest of those that cost no more than what is missing; None if `before` ranks lower still."""
        if before is None:
            return min((block for block in self.blocks() if block.cost <= missing), key=_rank, default=None)
        may_W = self.may_precede(np.array([before.index]), missing)[:, 0]
        lowest = min((self._block(int(number)) for number in np.flatnonzero(may_W)), key=_rank, default=None)
        return lowest if lowest is not None and lowest.rank < before.rank else None

    def may_precede(self, blocks: NDArray[np.int64], missing: int) -> NDArray[np.bool_]:
        """Whether a whole leaves before a block of single units, if all blocks before that one leave, bool [W, n].

        True for some that do not, where it depends on the last digits of a mean prior.
        """
        chains, owns = self._chains, self._owns_WC[:, self._chains.chain_B[blocks]]

        def left(whole_W: NDArray[Number], block_B: NDArray[Number]) -> NDArray[Number]:
            return _left(whole_W, owns, block_B[blocks])[:, :-1]

        cost, size = left(self._cost_W, chains.cost_B), left(self._size_W, chains.size_B)
        per = cost if self._problem.rules.rank == "density" else size
        value = np.divide(left(self._importance_W, self._loss_B), per, out=np.full(per.shape, np.inf), where=per > 0)
        value_n = np.where(chains.tier_B[blocks] == Tier.MEASURED, chains.value_B[blocks], np.inf)
        missing_n = missing - (np.cumsum(chains.cost_B[blocks]) - chains.cost_B[blocks])
        fits = self._allowed()[:, None] & (size > 0) & (cost <= missing_n)
        tied = fits & (value == value_n)
        precedes: NDArray[np.bool_] = fits & (value < value_n)
        if tied.any():
            prior = left(self._prior_W, self._prior_B) - self._rounding_W[:, None]
            scored = np.maximum(left(self._scored_W, chains.size_B), 1)
            precedes = precedes | tied & (prior / scored <= chains.tie_break_B[blocks])
        return precedes

    def lose(self, blocks: NDArray[np.int64]) -> None:
        """Blocks of single units have left, in this order."""
        chains, owns = self._chains, self._owns_WC[:, self._chains.chain_B[blocks]]
        self._importance_W = _left(self._importance_W, owns, self._loss_B[blocks])[:, -1]
        self._cost_W -= owns @ chains.cost_B[blocks]
        self._size_W -= owns @ chains.size_B[blocks]
        self._scored_W -= owns @ chains.size_B[blocks]
        self._prior_W -= owns @ self._prior_B[blocks]

    def lose_whole(self, gone: WholeBlock) -> None:
        """A whole has left, and with it parts of others."""
        importance = self._importance_W[gone.rank.number]
        for number, whole in enumerate(self._wholes):
            if whole.layer == self._wholes[gone.rank.number].layer and np.isin(gone.units[0], whole.units):
                self._importance_W[number] -= 0 if np.isnan(importance) else importance
                self._count(number)

    def _allowed(self) -> NDArray[np.bool_]:
        """Which wholes may leave, bool [W]: layers only while enough of them stay."""
        table = self._problem.table
        stay = sum(table.layer_stays(layer, self._keep_U) for layer in table.layer_sites)
        return np.array([not whole.is_layer or stay > self._minimum_layers for whole in self._wholes], dtype=bool)

    def _left_of(self, number: int) -> NDArray[np.int64]:
        units = self._wholes[number].units
        return units[self._keep_U[units]]

    def _count(self, number: int) -> None:
        """Look up what is left of a whole. Sums of priors are up to date but for rounding: at most `rounding`."""
        table, units = self._problem.table, self._left_of(number)
        scored = units[table.scored_U[units]]
        prior = self._problem.prior_U[scored]
        self._cost_W[number], self._size_W[number] = table.params_of(units), len(units)
        self._scored_W[number], self._prior_W[number] = len(scored), prior.sum()
        self._rounding_W[number] = 4 * np.finfo(np.float64).eps * len(scored) * np.abs(prior).sum()

    def _block(self, number: int) -> WholeBlock:
        problem, units, cost = self._problem, self._left_of(number), int(self._cost_W[number])
        importance, liking = float(self._importance_W[number]), mean_prior(problem.table, units, problem.prior_U)
        if np.isnan(importance):
            return WholeBlock(Rank(Tier.UNMEASURED_WHOLE, liking, 0.0, False, number), cost, units, np.inf)
        per = cost if problem.rules.rank == "density" else len(units)
        value = importance / per
        return WholeBlock(Rank(Tier.MEASURED, value, liking, False, number), cost, units, value * per)


def _rank(block: WholeBlock) -> Rank:
    return block.rank


def _left(whole_W: NDArray[Number], owns: NDArray[np.bool_], block_n: NDArray[Number]) -> NDArray[Number]:
    """What is left of wholes before each of some blocks leaves, and after the last, [W, n + 1]."""
    taken = np.where(owns, block_n, block_n.dtype.type(0))
    return np.subtract.accumulate(np.concatenate([whole_W[:, None], taken], axis=1), axis=1)


def mean_prior(table: UnitTable, units: NDArray[np.int64], prior_U: NDArray[np.float64]) -> float:
    """Of some units, but for what belongs to layers alone, which priors do not score; 0 if there is nothing else."""
    scored = units[table.scored_U[units]]
    return float(prior_U[scored].mean()) if len(scored) else 0.0
