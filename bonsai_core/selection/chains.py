"""Blocks of single units: one unit by default; with `round_to`, as many as bring a width to the next multiple; with
uniform shapes, the same number from every layer at once.

The blocks of a site, or of all sites of a kind, are a chain: they leave in its order. A model has hundreds of thousands
of them, so they are held as arrays. Shape legend: B blocks, C chains, N the units of all blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.selection.blocks import Rank, SiteBlock, Tier
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.units import Site

TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Chains:
    """Blocks of all chains, chain after chain, each chain in the order in which its blocks must leave.

    Attributes:
        unit_N: the units, block after block, int64.
        size_B: how many units a block has, int64.
        cost_B: parameters that a block frees, int64.
        importance_B: of all units of a block together, float64; NaN if not all of them were measured.
        prior_B: prior of all units of a block together, float64.
        tier_B, value_B, tie_break_B: as in `Rank`.
        worth_B: what a selection gives up with a block, float64; infinite if it was not measured.
    """

    chain_B: NDArray[np.int64]
    unit_N: NDArray[np.int64]
    size_B: NDArray[np.int64]
    cost_B: NDArray[np.int64]
    importance_B: NDArray[np.float64]
    prior_B: NDArray[np.float64]
    tier_B: NDArray[np.int64]
    value_B: NDArray[np.float64]
    tie_break_B: NDArray[np.float64]
    worth_B: NDArray[np.float64]

    @cached_property
    def first_C(self) -> NDArray[np.int64]:
        """Each chain's first block, int64 [C]; no chain is empty."""
        return np.flatnonzero(np.diff(self.chain_B, prepend=-1))

    @cached_property
    def start_B(self) -> NDArray[np.int64]:
        """Where a block's units begin in `unit_N`, int64."""
        return np.cumsum(self.size_B) - self.size_B

    def units(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The units of some blocks, block after block."""
        size = self.size_B[blocks]
        before = np.cumsum(size) - size
        units: NDArray[np.int64] = self.unit_N[np.repeat(self.start_B[blocks] - before, size) + np.arange(size.sum())]
        return units

    def block(self, index: int) -> SiteBlock:
        """One of the blocks."""
        compared = float(self.value_B[index]), float(self.tie_break_B[index])
        rank = Rank(Tier(self.tier_B[index]), *compared, single=True, number=int(self.chain_B[index]))
        return SiteBlock(rank, int(self.cost_B[index]), self.units(np.array([index])), float(self.worth_B[index]))

    def by_chain(self, value_B: NDArray[Any]) -> list[NDArray[Any]]:
        """The values of each chain's blocks."""
        return np.split(value_B, self.first_C[1:]) if len(value_B) else []

    def leaving_order(self) -> NDArray[np.int64]:
        """The order in which blocks leave if each time the lowest of all chains' first blocks does, int64 [B].

        A block that ranks below one before it in its chain leaves right after that one, as if it ranked equally: so the
        blocks sort by the highest rank in their chain so far.
        """
        tiers = [np.flatnonzero(self.tier_B == tier) for tier in Tier]
        # Stable: ties go by chain.
        order_B = np.concatenate([blocks[_order(self.value_B[blocks], self.tie_break_B[blocks])] for blocks in tiers])
        rank_B = np.empty_like(order_B)
        rank_B[order_B] = np.arange(len(order_B))
        highest_B = np.concatenate([rank_B[:0], *map(np.maximum.accumulate, self.by_chain(rank_B))])
        return np.argsort(highest_B, kind="stable")


_INTEGERS, _FLOATS = np.empty(0, np.int64), np.empty(0, np.float64)
NO_CHAIN = Chains(_INTEGERS, _INTEGERS, _INTEGERS, _INTEGERS, _FLOATS, _FLOATS, _INTEGERS, _FLOATS, _FLOATS, _FLOATS)


def removal_chains(problem: SelectionProblem) -> Chains:
    """Blocks in the order in which they must leave: one chain per site, or per kind of site if uniform.

    Raises:
        BonsaiError: shapes shall be uniform, and sites of a kind differ in width.
    """
    table, rules = problem.table, problem.rules
    groups: dict[str, list[Site]] = {}
    for site in table:
        if rules.divides(site) and table.layer_stays(site.layer, problem.alive_U):
            groups.setdefault(site.kind if rules.shapes == "uniform" else site.name, []).append(site)
    chains: list[Chains] = []
    for group in groups.values():
        chain = _chain(len(chains), group, problem)
        chains += [chain] if len(chain.size_B) else []
    return Chains(*(np.concatenate([getattr(chain, f.name) for chain in (NO_CHAIN, *chains)]) for f in fields(Chains)))


def _chain(number: int, sites: list[Site], problem: SelectionProblem) -> Chains:
    """The blocks of some sites that lose equally many units."""
    orders = [removal_order(site, problem) for site in sites]
    counts = {len(order) for order in orders}
    if len(counts) > 1:
        raise BonsaiError(
            f"Uniform shapes need equal widths to start from; the {sites[0].kind} sites have {sorted(counts)}."
        )
    count = counts.pop()
    remaining_B, cost_B = _steps(sites, count, problem.rules.counts_below(sites[0], count))
    leaving_B = count - remaining_B
    step_B = np.diff(leaving_B, prepend=0)  # what one site loses with a block
    block_L = np.repeat(np.arange(len(step_B)), step_B)  # of each unit of one site that leaves
    leaving = np.stack(orders)[:, : len(block_L)].ravel()
    unit_N = leaving[np.argsort(np.tile(block_L, len(sites)), kind="stable")]
    size_B = step_B * len(sites)
    importance_B = sums(problem.importance_U[unit_N], size_B)
    prior_B = sums(problem.prior_U[unit_N], size_B)
    measured_B = ~np.isnan(importance_B)
    share_B = prior_B / max(problem.prior_U[np.concatenate(orders)].sum(), TINY)
    per_B = cost_B if problem.rules.rank == "density" else size_B
    price_B = importance_B / per_B
    return Chains(
        chain_B=np.full(len(size_B), number),
        unit_N=unit_N,
        size_B=size_B,
        cost_B=cost_B,
        importance_B=importance_B,
        prior_B=prior_B,
        tier_B=np.where(measured_B, Tier.MEASURED, Tier.UNMEASURED),
        value_B=np.where(measured_B, price_B, leaving_B / count),
        tie_break_B=np.where(measured_B, (leaving_B - step_B) / count, share_B),
        worth_B=np.where(measured_B, price_B * per_B, np.inf),
    )


def _steps(
    sites: list[Site], count: int, remaining_B: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of units that blocks leave, of those allowed, and what each block frees, int64 [B].

    Units that free nothing leave with the next ones of their chain that do, or not at all.
    """
    counts = np.concatenate([[count], remaining_B])
    cost: NDArray[np.int64] = np.sum([site.cost(counts) for site in sites], axis=0)
    frees_B = cost[1:] < cost[:-1]
    return remaining_B[frees_B], -np.diff(cost[np.concatenate([[True], frees_B])])


def removal_order(site: Site, problem: SelectionProblem) -> NDArray[np.int64]:
    """The site's living units, first to go first: measured ones by importance, then the others by prior."""
    units = site.first + np.flatnonzero(problem.alive_U[site.units])
    importance, prior = problem.importance_U[units], problem.prior_U[units]
    measured = ~np.isnan(importance)
    order = _order(importance[measured], prior[measured])
    return np.concatenate([units[measured][order], units[~measured][_order(prior[~measured])]])


def _order(key: NDArray[np.float64], *tie_breaks: NDArray[np.float64]) -> NDArray[np.int64]:
    """A stable order by several keys."""
    order = np.argsort(key)  # not stable, but several times faster; that matters only where keys tie
    ascending = key[order]
    return np.lexsort((*tie_breaks, key)) if (ascending[1:] == ascending[:-1]).any() else order


def sums(values_N: NDArray[np.float64], size_B: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the values of each of some consecutive blocks, rounded as NumPy rounds the sum of one block, float64 [B]."""
    start_B, sum_B = np.cumsum(size_B) - size_B, np.empty(len(size_B))
    for size in np.flatnonzero(np.bincount(size_B)):
        alike = np.flatnonzero(size_B == size)
        sum_B[alike] = values_N[start_B[alike, None] + np.arange(size)].sum(axis=1)
    return sum_B
