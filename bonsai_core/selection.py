"""Importances, exact costs and a budget become the next keep vector.

Units leave in blocks: one unit by default; with `round_to`, as many channels as bring a width to the next multiple;
with uniform shapes, the same number from every layer at once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.units import Site, SiteKind, UnitTable

T = TypeVar("T", int, float)
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Rules:
    """What the user and the checkpoint's format allow.

    Attributes:
        rank: ``importance``: a block's mean importance; ``density``: that per parameter.
        round_to: numbers of units become multiples of this: those of the MLP, or of each kind named.
        min_units: units that every site keeps, or those of each kind named; 1 of others.
        max_fraction: share of its units that a site may lose, or those of each kind named.
        protect: layers that stay whole.
        shapes: ``free`` or ``uniform`` (all sites of a kind end equally wide).
        attention_counts: numbers of KV groups that the stock class accepts, for uniform shapes; None: all.
    """

    rank: Literal["importance", "density"] = "importance"
    round_to: int | Mapping[SiteKind, int] = 1
    min_units: int | Mapping[SiteKind, int] = 1
    max_fraction: float | Mapping[SiteKind, float] = 1.0
    protect: frozenset[int] = frozenset()
    shapes: Literal["free", "uniform"] = "free"
    attention_counts: tuple[int, ...] | None = None

    def least(self, site: Site) -> int:
        """Units that a site keeps in any case."""
        if site.layer in self.protect:
            return site.num_units
        least = _of(self.min_units, site.kind, 1)
        return min(
            site.num_units, max(least, math.ceil(site.num_units * (1 - _of(self.max_fraction, site.kind, 1.0)) - 1e-9))
        )

    def multiple(self, kind: SiteKind) -> int:
        """What numbers of units of this kind are multiples of."""
        by_kind = {"mlp": self.round_to} if isinstance(self.round_to, int) else self.round_to
        return by_kind.get(kind, 1)

    def told(self) -> str:
        """The limits in words that users typed."""
        limits = [f"min_units={self.min_units}", f"round_to={self.round_to}"]
        limits += [f"max_fraction={self.max_fraction}"] if self.max_fraction != 1 else []
        limits += [f"layers {sorted(self.protect)} protected"] if self.protect else []
        counts = self.attention_counts
        only = (
            f" (of KV groups the stock class takes {', '.join(map(str, counts)) or 'none'})"
            if counts is not None
            else ""
        )
        return f"{', '.join(limits)} and shapes={self.shapes}{only}"

    def counts_below(self, site: Site, count: int) -> Iterator[int]:
        """The numbers of units that a site with `count` of them may be cut down to, step by step."""
        multiple, least = self.multiple(site.kind), self.least(site)
        for smaller in range((count - 1) // multiple * multiple, -(-least // multiple) * multiple - 1, -multiple):
            if site.kind != "attention" or self.attention_counts is None or smaller in self.attention_counts:
                yield smaller


def _of(limit: T | Mapping[SiteKind, T], kind: SiteKind, otherwise: T) -> T:
    """A limit for one kind of site."""
    return limit.get(kind, otherwise) if isinstance(limit, Mapping) else limit


@dataclass(frozen=True, order=True)
class Block:
    """Units that leave together.

    Measured units (tier 0) go first, by importance; where that ties, as the many zeros of a lasso do, chains lose
    equal shares. Unmeasured ones (tier 1) follow: chains lose equal shares, and where that ties, as it does for the few
    KV groups of each layer, the block that the prior likes least compared with its site goes first.
    """

    tier: int
    value: float
    tie_break: float
    chain: int
    cost: int = field(compare=False)
    units: NDArray[np.int64] = field(compare=False)


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
) -> NDArray[np.bool_]:
    """The keep vector that reaches a sparsity at the least importance.

    Args:
        alive_U: units that may still go, bool [U].
        importance_U: float64 [U]; larger means keep; NaN for units that were not measured, which go last.
        prior_U: float64 [U]; breaks ties, and orders unmeasured units.
        sparsity: fraction of the decoder's parameters that shall be gone afterwards, 0..1.

    Returns:
        bool [U]. At least `sparsity` is reached, overshooting by less than the cheapest block that was left.

    Raises:
        BonsaiError: the rules do not leave enough to remove.
    """
    target = int(np.ceil(sparsity * table.decoder_params - 1e-6))
    missing = target - table.removed_params(alive_U)
    chains = removal_chains(table, alive_U, importance_U, prior_U, rules)
    available = sum(block.cost for chain in chains for block in chain)
    if missing > available:
        largest = (table.removed_params(alive_U) + available) / table.decoder_params
        raise BonsaiError(
            f"A sparsity of {sparsity:.4f} cannot be reached: with {rules.told()} at most {largest:.4f} can be removed."
        )
    keep_U = alive_U.copy()
    queues = [iter(chain) for chain in chains]
    heads = [block for queue in queues if (block := next(queue, None))]
    heapq.heapify(heads)
    too_big: list[Block] = []
    while missing > 0:
        if heads:
            block = heapq.heappop(heads)
            if block.cost > missing:
                too_big.append(block)  # for good: what is missing only shrinks, and its chain waits for it
                continue
        else:
            block = min(too_big, key=lambda b: (b.cost, b))
        keep_U[block.units] = False
        missing -= block.cost
        if (following := next(queues[block.chain], None)) is not None:
            heapq.heappush(heads, following)
    return keep_U


def removal_chains(
    table: UnitTable,
    alive_U: NDArray[np.bool_],
    importance_U: NDArray[np.float64],
    prior_U: NDArray[np.float64],
    rules: Rules,
) -> list[list[Block]]:
    """Blocks in the order in which they must leave: one chain per site, or per kind of site if uniform."""
    if rules.shapes == "uniform":
        kinds = dict.fromkeys(site.kind for site in table)
        groups = [[site for site in table if site.kind == kind] for kind in kinds]
    else:
        groups = [[site] for site in table]
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
            cost = int(table.cost_U[units].sum())
            if np.isnan(importance_B).any():
                liking = float(prior_U[units].sum() / max(prior_U[order_all].sum(), TINY))
                chain.append(Block(1, leaving / count, liking, number, cost, units))
            else:
                price = importance_B.sum() / cost if rules.rank == "density" else importance_B.mean()
                chain.append(Block(0, float(price), gone / count, number, cost, units))
            gone = leaving
        chains.append(chain)
    return chains
