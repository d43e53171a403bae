"""The unit table: what can be removed from a model, numbered, with the exact cost of each.

Shape legend used throughout the project: U units, M sub-models, S sites, W wholes, N windows, T tokens of one, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SiteKind = Literal["attention", "query", "mlp", "experts", "expert_width", "layer"]
UnitKind = Literal["attention", "query", "mlp", "experts", "expert_width", "sublayer", "layer"]
"""What may leave: units of a kind of site one by one, all units of a site together, or those of a layer."""
WHOLE_KINDS: frozenset[UnitKind] = frozenset(["sublayer", "layer"])
"""Of these, what leaves all at once."""


@dataclass(frozen=True)
class KindOfSite:
    """What holds for all sites of a kind in every model; `model.sites` has what they are physically.

    Attributes (those that a `Site` has too are explained there):
        replaces: the kind whose parameters this kind divides into units in another way.
        multiple: numbers of units are multiples of this, unless the user names the kind.
        follows_round_to: they are multiples of a `round_to` that names no kind, too.
    """

    has_output: bool = False
    in_mixture: bool = False
    leaves_with_layer: bool = False
    replaces: SiteKind | None = None
    multiple: int = 1
    follows_round_to: bool = False
    limited_by_stock: bool = False


KINDS_OF_SITE: Mapping[SiteKind, KindOfSite] = {
    "attention": KindOfSite(has_output=True, limited_by_stock=True),
    "query": KindOfSite(has_output=True, limited_by_stock=True, replaces="attention"),
    "mlp": KindOfSite(has_output=True, follows_round_to=True),
    "experts": KindOfSite(in_mixture=True),
    # Grouped matrix products want rows of a multiple of 16 bytes, in half precision too.
    "expert_width": KindOfSite(in_mixture=True, replaces="experts", multiple=8, follows_round_to=True),
    "layer": KindOfSite(leaves_with_layer=True),
}


class Price(NamedTuple):
    """What one unit of a site costs, and what goes with the last one."""

    unit: int
    rest: int = 0


@dataclass(frozen=True)
class Site:
    """One place in one layer where units live side by side.

    Attributes:
        name: for people and for random streams, e.g. ``layers.3.attention``.
        layer: index of the decoder layer, from 0.
        kind: ``attention`` (units are KV groups), ``query`` (one query head of every KV group together), ``mlp``
            (channels), ``experts``, ``expert_width`` (one channel of every expert together), or ``layer``: its one
            unit, such as norms, belongs to no other site of the layer, and leaves with all the others.
        first: number of the site's first unit in the table.
        num_units: units in the dense model.
        unit_params: parameters that removing one unit frees, exactly.
        unit_channels: input channels of the output projection that one unit owns.
        stretches: a unit's channels are in this many consecutive stretches, the same channels of each KV group.
        rest_params: parameters that go with the last unit, such as norms of queries and keys.
        minimum: units without which the layer does not run: experts that every token is sent to.
        cost_N: where cost is not proportional to the number of units, that of 0, 1, ..., `num_units` of them, int64
            [num_units + 1], never falling; `unit_params` is its mean then, and `rest_params` 0.
    """

    name: str
    layer: int
    kind: SiteKind
    first: int
    num_units: int
    unit_params: int
    unit_channels: int
    rest_params: int = 0
    minimum: int = 0
    stretches: int = 1
    cost_N: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)

    def cost(self, count: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """What this many units cost with all that goes with them, int64 in the shape of `count`."""
        if self.cost_N is not None:
            return np.asarray(self.cost_N[count])
        return np.asarray(count * np.int64(self.unit_params) + np.where(count, np.int64(self.rest_params), np.int64(0)))

    @property
    def has_output(self) -> bool:
        """Whether there is an output projection that reads the units' channels."""
        return KINDS_OF_SITE[self.kind].has_output

    @property
    def in_mixture(self) -> bool:
        """Whether its units are those of a mixture of experts."""
        return KINDS_OF_SITE[self.kind].in_mixture

    @property
    def leaves_with_layer(self) -> bool:
        """Whether its units leave only with all of the layer, and priors do not score them."""
        return KINDS_OF_SITE[self.kind].leaves_with_layer

    @property
    def limited_by_stock(self) -> bool:
        """Whether the stock class of a family accepts only some numbers of its units."""
        return KINDS_OF_SITE[self.kind].limited_by_stock

    @property
    def units(self) -> slice:
        """The positions of the site's units in any vector over units."""
        return slice(self.first, self.first + self.num_units)


@dataclass(frozen=True)
class Whole:
    """Units that may leave all at once: a whole attention or MLP, or a whole layer.

    Attributes:
        name: ``layers.3.attention``, or ``layers.3`` for the layer.
        kind: ``sublayer`` or ``layer``.
        layer: index of the decoder layer, from 0.
        units: their numbers, int64.
    """

    name: str
    kind: Literal["sublayer", "layer"]
    layer: int
    units: NDArray[np.int64]

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer, not a sub-layer."""
        return self.kind == "layer"


@dataclass(frozen=True)
class UnitTable:
    """All sites of a model in order; units are numbered 0..U-1 and keep their numbers for a whole run.

    Tables count parameters. In one that `priced` returns, the same attributes are of what else a budget counts.

    Attributes:
        sites: in order of their first unit, without gaps.
        decoder_params: parameters of all decoder layers of the dense model; sparsity is a fraction of these.
        total_params: parameters of the whole dense model, tied weights counted once.
    """

    sites: tuple[Site, ...]
    decoder_params: int
    total_params: int

    def __len__(self) -> int:
        return sum(site.num_units for site in self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @cached_property
    def cost_U(self) -> NDArray[np.int64]:
        """Parameters each unit frees, int64 [U]; on average over its site, where these differ."""
        return np.concatenate([np.full(s.num_units, s.unit_params, np.int64) for s in self.sites])

    @cached_property
    def site_U(self) -> NDArray[np.int64]:
        """Index of each unit's site, int64 [U]."""
        return np.concatenate([np.full(s.num_units, i, np.int64) for i, s in enumerate(self.sites)])

    @cached_property
    def scored_U(self) -> NDArray[np.bool_]:
        """Units that priors score, bool [U]: all but those that leave only with their layer."""
        return np.concatenate([np.full(s.num_units, not s.leaves_with_layer) for s in self.sites])

    @cached_property
    def layer_sites(self) -> dict[int, Site]:
        """By layer, the site whose unit leaves only with the layer; empty where layers cannot leave."""
        return {site.layer: site for site in self.sites if site.leaves_with_layer}

    def layer_stays(self, layer: int, keep_U: NDArray[np.bool_]) -> bool:
        """Whether the keep vector keeps a layer."""
        site = self.layer_sites.get(layer)
        return site is None or bool(keep_U[site.first])

    def wholes(self, kinds: Collection[UnitKind]) -> tuple[Whole, ...]:
        """Sub-layers, then layers, where they are among the kinds."""
        units = np.arange(len(self))
        sites = [s for s in self.sites if s.has_output] if "sublayer" in kinds else []
        layers = list(self.layer_sites) if "layer" in kinds else []
        return (
            *(Whole(s.name, "sublayer", s.layer, units[s.units]) for s in sites),
            *(
                Whole(f"layers.{n}", "layer", n, np.concatenate([units[s.units] for s in self.sites if s.layer == n]))
                for n in layers
            ),
        )

    def keep_all(self) -> NDArray[np.bool_]:
        """A fresh keep vector of the dense model, bool [U], all True."""
        return np.ones(len(self), dtype=bool)

    def priced(self, price_S: Sequence[Price | NDArray[np.int64]], whole: int) -> UnitTable:
        """The same units at other prices.

        Args:
            price_S: of every site: of a unit and of the rest, or what each number of units costs, see `Site.cost_N`.
            whole: what all of the dense model costs; fractions are of this.
        """
        sites = (_priced(site, price) for site, price in zip(self.sites, price_S, strict=True))
        return UnitTable(tuple(sites), whole, whole)

    def params_of(self, units: NDArray[np.int64]) -> int:
        """Parameters that units free when they leave together and are the last of each of their sites."""
        counts = np.bincount(self.site_U[units])
        return sum(int(self.sites[site].cost(counts[site])) for site in np.flatnonzero(counts))

    def removed_params(self, keep_U: NDArray[np.bool_]) -> int:
        """Parameters that the keep vector removes."""
        kept_S = np.bincount(self.site_U[keep_U], minlength=len(self.sites))
        return sum(
            int(site.cost(site.num_units) - site.cost(kept)) for site, kept in zip(self.sites, kept_S, strict=True)
        )

    def amount(self, fraction: float) -> int:
        """How many parameters a fraction of the decoder's is, rounded up; floating point does not add one."""
        return math.ceil(fraction * self.decoder_params * (1 - 4 * np.finfo(np.float64).eps) - 1e-6)

    def sparsity(self, keep_U: NDArray[np.bool_]) -> float:
        """Removed fraction of the decoder's parameters, 0..1."""
        return self.removed_params(keep_U) / self.decoder_params


def _priced(site: Site, price: Price | NDArray[np.int64]) -> Site:
    if isinstance(price, Price):
        return replace(site, unit_params=price.unit, rest_params=price.rest, cost_N=None)
    return replace(site, unit_params=int(price[-1]) // site.num_units, rest_params=0, cost_N=price)
