"""What may leave a model, and how little has to stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core.units import Site, SiteKind, UnitKind, UnitTable, Whole

T = TypeVar("T", int, float)
ALIGNED = 8
"""Channels of experts; grouped matrix products want rows of a multiple of 16 bytes, in half precision too."""


@dataclass(frozen=True)
class Rules:
    """What the user and the checkpoint's format allow.

    Attributes:
        units: what may leave.
        rank: ``importance``: a block's mean importance; ``density``: that per parameter.
        round_to: numbers of units become multiples of this: those of the MLP, or of each kind named. Those of
            `expert_width` are multiples of 8 unless they are named.
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

    def minimum(self, site: Site) -> int:
        """Units that a site keeps in any case, unless all of it goes at once."""
        if site.layer in self.protect or site.kind == "layer" or site.kind not in self.units:
            return site.num_units
        minimum = max(site.minimum, _of(self.min_units, site.kind, 1))
        return min(
            site.num_units,
            max(minimum, math.ceil(site.num_units * (1 - _of(self.max_fraction, site.kind, 1.0)) - 1e-9)),
        )

    def minimum_layers(self, num_layers: int) -> int:
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

    def stuck(self, table: UnitTable) -> list[UnitKind]:
        """Kinds of unit that could leave this model, and of which these limits let none go."""
        open_rules = replace(self, min_units=1, round_to=1, max_fraction=1.0)
        return [kind for kind in self.units if open_rules._gives(table, kind) and not self._gives(table, kind)]

    def _gives(self, table: UnitTable, kind: UnitKind) -> bool:
        """Whether a unit of a kind can leave."""
        if kind == "layer":
            num_layers = len({site.layer for site in table})
            return self.minimum_layers(num_layers) < num_layers
        sites = [site for site in table if site.kind == kind]
        return kind == "sublayer" or any(True for site in sites for _ in self.counts_below(site, site.num_units))

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
        multiple, minimum = self.multiple(site.kind), self.minimum(site)
        for smaller in range((count - 1) // multiple * multiple, -(-minimum // multiple) * multiple - 1, -multiple):
            if (
                site.kind not in ("attention", "query")
                or self.attention_counts is None
                or smaller in self.attention_counts
            ):
                yield smaller


def _of(limit: T | Mapping[SiteKind, T], kind: SiteKind, otherwise: T) -> T:
    """A limit for one kind of site."""
    return limit.get(kind, otherwise) if isinstance(limit, Mapping) else limit
