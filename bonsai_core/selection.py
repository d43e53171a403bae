"""Importances, exact costs and a budget become the next keep vector.

Units leave in blocks: one unit by default; with `round_to`, as many channels as bring a width to the next multiple;
with uniform shapes, the same number from every layer at once. Whole sub-layers and layers, where they may leave,
compete with the blocks of their own units: what is left of one is a block that gets cheaper as its units go.
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
from bonsai_core.units import Site, SiteKind, UnitKind, UnitTable, Whole

T = TypeVar("T", int, float)
TINY = np.finfo(np.float64).tiny
ALIGNED = 8
"""Channels of experts; grouped matrix products want rows of a multiple of 16 bytes, in half precision too."""


@dataclass(frozen=True)
class Rules:
    """What the user and the checkpoint's format allow.

    Attributes:
        units: what may leave.
        rank: ``importance``: a block's mean importance; ``density``: that per parameter.
        round_to: numbers of units become multiples of this: those of the MLP, or of each kind named. Those of
            `expert_width` are multiples of 8 in any case that does not name them.
        min_units: units that every site keeps, or those of each kind named; 1 of others. For layers, how many stay.
        max_fraction: share of its units that a site may lose, or those of each kind named. For layers, share of them.
        protect: layers that stay whole.
        shapes: ``free`` or ``uniform`` (all sites of a kind end equally wide).
        attention_counts: numbers of an attention's units that the stock class accepts, for uniform shapes; None: all.
    """

    units: tuple[UnitKind, ...] = ("attention", "mlp", "experts")
    rank: Literal["importance", "density"] = "importance"
    round_to: int | Mapping[SiteKind, int] = 1
    min_units: int | Mapping[SiteKind, int] = 1
    max_fraction: float | Mapping[SiteKind, float] = 1.0
    protect: frozenset[int] = frozenset()
    shapes: Literal["free", "uniform"] = "free"
    attention_counts: tuple[int, ...] | None = None

    def least(self, site: Site) -> int:
        """Units that a site keeps in any case, unless all of it goes at once."""
        if site.layer in self.protect or site.kind == "layer" or site.kind not in self.units:
            return site.num_units
        least = max(site.least, _of(self.min_units, site.kind, 1))
        return min(
            site.num_units, max(least, math.ceil(site.num_units * (1 - _of(self.max_fraction, site.kind, 1.0)) - 1e-9))
        )

    def least_layers(self, num_layers: int) -> int:
        """How many layers stay in any case."""
        most = math.floor(num_layers * _of(self.max_fraction, "layer", 1.0) + 1e-9)
        named = self.min_units.get("layer", 1) if isinstance(self.min_units, Mapping) else 1
        return max(1, named, num_layers - most, len(self.protect))

    def wholes(self, table: UnitTable) -> tuple[Whole, ...]:
        """The sub-layers and layers that may leave."""
        return tuple(whole for whole in table.wholes(self.units) if whole.layer not in self.protect)

    def may_leave(self, table: UnitTable) -> NDArray[np.bool_]:
        """Units that may leave, alone or with a whole, bool [U]."""
        leave_U = np.zeros(len(table), dtype=bool)
        for site in table:
            leave_U[site.units] = site.kind in self.units and site.layer not in self.protect
        for whole in self.wholes(table):
            leave_U[whole.units] = True
        return leave_U

    def multiple(self, kind: SiteKind) -> int:
        """What numbers of units of this kind are multiples of."""
        if isinstance(self.round_to, Mapping):
            return self.round_to.get(kind, ALIGNED if kind == "expert_width" else 1)
        return {"mlp": self.round_to, "expert_width": math.lcm(ALIGNED, self.round_to)}.get(kind, 1)

    def told(self) -> str:
        """The limits in words that users typed."""
        limits = [f"units={','.join(self.units)}", f"min_units={self.min_units}", f"round_to={self.round_to}"]
        limits += [f"max_fraction={self.max_fraction}"] if self.max_fraction != 1 else []
        limits += [f"layers {sorted(self.protect)} protected"] if self.protect else []
        counts = self.attention_counts
        only = (
            f" (of an attention's units the stock class takes {', '.join(map(str, counts)) or 'none'})"
            if counts is not None
            else ""
        )
        return f"{', '.join(limits)} and shapes={self.shapes}{only}"

    def counts_below(self, site: Site, count: int) -> Iterator[int]:
        """The numbers of units that a site with `count` of them may be cut down to, step by step."""
        multiple, least = self.multiple(site.kind), self.least(site)
        for smaller in range((count - 1) // multiple * multiple, -(-least // multiple) * multiple - 1, -multiple):
            if (
                site.kind not in ("attention", "query")
                or self.attention_counts is None
                or smaller in self.attention_counts
            ):
                yield smaller


def _of(limit: T | Mapping[SiteKind, T], kind: SiteKind, otherwise: T) -> T:
    """A limit for one kind of site."""
    return limit.get(kind, otherwise) if isinstance(limit, Mapping) else limit


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
        bool [U]. At least `sparsity` is reached, overshooting by less than the cheapest block that was left.

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
    while missing > 0:
        if heads:
            block = heapq.heappop(heads)
            if block.cost > missing:
                too_big.append(block)  # for good: what is missing only shrinks, and its chain waits for it
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
        if block.chain >= 0 and (following := next(queues[block.chain], None)) is not None:
            heapq.heappush(heads, following)
        for smaller in wholes.without(block):
            heapq.heappush(heads, smaller)
    return keep_U


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
        self._least_layers = rules.least_layers(len(table.layer_sites))

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
