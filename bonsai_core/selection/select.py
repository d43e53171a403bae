"""Importances, exact costs and a budget become the next keep vector.

Units leave in blocks: one unit by default; with `round_to`, as many channels as bring a width to the next multiple;
with uniform shapes, the same number from every layer at once. Whole sub-layers and layers, where they may leave,
compete with the blocks of their own units: what is left of one is a block that gets cheaper as its units go.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.selection.rules import Rules
from bonsai_core.units import Site, UnitTable

TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, order=True)
class Block:
    """Units that leave together.

    Measured units (tier 0) go first, by importance; where that ties, as the many zeros of a lasso do, chains lose
    equal shares. Unmeasured ones (tier 1) follow: chains lose equal shares, and where that ties, as it does for the few
    KV groups of each layer, the block that the prior likes least compared with its site goes first. What is left of a
    whole sub-layer or layer that was not measured (tier 2) comes last, by its mean prior; `chain` counts wholes from
    the end, so that it is negative.
    """

    tier: int
    value: float
    tie_break: float
    chain: int
    cost: int = field(compare=False)
    units: NDArray[np.int64] = field(compare=False)

    def importance(self, rules: Rules) -> float:
        """Of all its units together; infinite if it was not measured."""
        if self.tier > 0:
            return np.inf
        return self.value * (self.cost if rules.rank == "density" else len(self.units))


def removal_order(
    site: Site, alive_U: NDArray[np.bool_], importance_U: NDArray[np.float64], prior_U: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The site's living units, first to go first: measured ones by importance, then the others by prior."""
    ids = np.arange(site.first, site.first + site.num_units)[alive_U[site.units]]
    unmeasured = np.isnan(importance_U[ids])
    value = np.where(unmeasured, 0.0, importance_U[ids])
    return ids[np.lexsort((ids, prior_U[ids], value, unmeasured))]


def select(
    table: UnitTable,
    alive_U: NDArray[np.bool_],
    importance_U: NDArray[np.float64],
    prior_U: NDArray[np.float64],
    sparsity: float,
    rules: Rules,
    whole_importance_W: NDArray[np.float64] | None = None,
) -> NDArray[np.bool_]:
    """The keep vector that reaches a sparsity at the least importance.

    Args:
        alive_U: units that may still go, bool [U].
        importance_U: float64 [U]; larger means keep; NaN for units that were not measured, which go last.
        prior_U: float64 [U]; breaks ties, and orders unmeasured units.
        sparsity: fraction of the decoder's parameters that shall be gone afterwards, 0..1.
        whole_importance_W: of all living units of each of `rules.wholes` together, float64 [W]; NaN, or None for all,
            where that was not measured, which goes after everything else.

    Returns:
        bool [U]. At least `sparsity` is reached, overshooting by less than the cheapest block that was left; or, where
        that costs less importance, by less than one block that is larger than what was missing, such as an expert.
        Units that were not measured go last, so none of them makes up for a block that was.

    Raises:
        BonsaiError: the rules do not leave enough to remove.
    """
    target = int(np.ceil(sparsity * table.decoder_params - 1e-6))
    chains = removal_chains(table, alive_U, importance_U, prior_U, rules)
    keep_U = alive_U.copy()
    wholes = _Wholes(table, keep_U, importance_U, prior_U, rules, whole_importance_W)
    missing = target - table.removed_params(alive_U)
    queues = [iter(chain) for chain in chains]
    heads = [*(block for queue in queues if (block := next(queue, None))), *wholes.blocks()]
    heapq.heapify(heads)
    too_big: list[Block] = []
    worth = 0.0  # of what was taken
    ended, ended_U = np.inf, keep_U  # the least worth with a block that is too big at the end, and what that leaves
    while missing > 0:
        if heads:
            block = heapq.heappop(heads)
            if block.cost > missing:
                too_big.append(block)  # for good: what is missing only shrinks, and its chain waits for it
                total = worth + block.importance(rules)
                if block.chain >= 0 and total < ended and wholes.may_go(block):
                    ended, ended_U = total, keep_U.copy()
                    ended_U[block.units] = False
                continue
        elif not (left := [block for block in too_big if wholes.may_go(block)]):
            raise BonsaiError(
                f"A sparsity of {sparsity:.4f} cannot be reached: with {rules.told()} at most "
                f"{table.sparsity(keep_U):.4f} can be removed."
            )
        else:
            block = min(left, key=lambda b: (b.cost, b))
        if not wholes.may_go(block):
            continue
        keep_U[block.units] = False
        missing -= block.cost
        worth += block.importance(rules)
        if block.chain >= 0 and (following := next(queues[block.chain], None)) is not None:
            heapq.heappush(heads, following)
        for smaller in wholes.without(block):
            heapq.heappush(heads, smaller)
    return ended_U if ended < worth else keep_U


def removal_chains(
    table: UnitTable,
    alive_U: NDArray[np.bool_],
    importance_U: NDArray[np.float64],
    prior_U: NDArray[np.float64],
    rules: Rules,
) -> list[list[Block]]:
    """Blocks in the order in which they must leave: one chain per site, or per kind of site if uniform."""
    single = [site for site in table if site.kind in rules.units and site.kind != "layer"]
    sites = [site for site in single if table.layer_stays(site.layer, alive_U)]
    if rules.shapes == "uniform":
        kinds = dict.fromkeys(site.kind for site in sites)
        groups = [[site for site in sites if site.kind == kind] for kind in kinds]
    else:
        groups = [[site] for site in sites]
    chains = []
    for number, sites in enumerate(groups):
        orders = [removal_order(site, alive_U, importance_U, prior_U) for site in sites]
        counts = {len(order) for order in orders}
        if len(counts) > 1:
            raise BonsaiError(
                f"Uniform shapes need equal widths to start from; the {sites[0].kind} sites have {sorted(counts)}."
            )
        count = counts.pop()
        order_all = np.concatenate(orders)
        chain, gone = [], 0
        for remaining in rules.counts_below(sites[0], count):
            leaving = count - remaining
            units = np.concatenate([order[gone:leaving] for order in orders])
            importance_B = importance_U[units]
            rest = 0 if remaining else sum(site.rest_params for site in sites)
            cost = int(table.cost_U[units].sum()) + rest
            if np.isnan(importance_B).any():
                liking = float(prior_U[units].sum() / max(prior_U[order_all].sum(), TINY))
                chain.append(Block(1, leaving / count, liking, number, cost, units))
            else:
                price = importance_B.sum() / cost if rules.rank == "density" else importance_B.mean()
                chain.append(Block(0, float(price), gone / count, number, cost, units))
            gone = leaving
        chains.append(chain)
    return chains


class _Wholes:
    """What is left of whole sub-layers and layers, as blocks.

    Args:
        keep_U: what selection has left so far; it changes while this is used.
    """

    def __init__(
        self,
        table: UnitTable,
        keep_U: NDArray[np.bool_],
        importance_U: NDArray[np.float64],
        prior_U: NDArray[np.float64],
        rules: Rules,
        whole_importance_W: NDArray[np.float64] | None,
    ) -> None:
        self._table = table
        self._keep_U = keep_U
        self._importance_U = importance_U
        self._prior_U = prior_U
        self._rules = rules
        self._wholes = rules.wholes(table)
        unmeasured_W = np.full(len(self._wholes), np.nan)
        self._importance_W = unmeasured_W if whole_importance_W is None else whole_importance_W.copy()
        self._least_layers = rules.minimum_layers(len(table.layer_sites))

    def blocks(self) -> list[Block]:
        """One for each whole of which something is left."""
        return [block for number in range(len(self._wholes)) if (block := self._block(number))]

    def without(self, gone: Block) -> list[Block]:
        """Those that got smaller because `gone` went; the blocks they replace may no longer go."""
        of_layer = self._table.sites[self._table.site_U[gone.units[0]]].layer
        importance = self._importance_W[gone.chain] if gone.chain < 0 else self._importance_U[gone.units].sum()
        smaller = []
        for number, whole in enumerate(self._wholes):
            if whole.layer == of_layer and np.isin(gone.units[0], whole.units):
                self._importance_W[number] -= 0 if np.isnan(importance) else importance
                smaller += [block] if (block := self._block(number)) else []
        return smaller

    def may_go(self, block: Block) -> bool:
        """Whether all of the block is still there, and all that is left of a whole lies in it."""
        if not self._keep_U[block.units].all():
            return False
        if block.chain >= 0:
            return True
        whole = self._wholes[block.chain]
        if whole.kind == "layer":
            stay = sum(self._table.layer_stays(layer, self._keep_U) for layer in self._table.layer_sites)
            if stay <= self._least_layers:
                return False
        return int(self._keep_U[whole.units].sum()) == len(block.units)

    def _block(self, number: int) -> Block | None:
        whole, table = self._wholes[number], self._table
        units = whole.units[self._keep_U[whole.units]]
        if not len(units):
            return None
        sites = np.unique(table.site_U[units])
        cost = int(table.cost_U[units].sum()) + sum(table.sites[site].rest_params for site in sites)
        importance, liking = self._importance_W[number], mean_prior(table, units, self._prior_U)
        chain = number - len(self._wholes)
        if np.isnan(importance):
            return Block(2, liking, 0.0, chain, cost, units)
        price = importance / (cost if self._rules.rank == "density" else len(units))
        return Block(0, float(price), liking, chain, cost, units)


def mean_prior(table: UnitTable, units: NDArray[np.int64], prior_U: NDArray[np.float64]) -> float:
    """Of some units, but for what belongs to layers alone, which priors do not score; 0 if there is nothing else."""
    scored = units[table.scored_U[units]]
    return float(prior_U[scored].mean()) if len(scored) else 0.0
