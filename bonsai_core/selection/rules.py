"""What may leave a model, and how little has to stay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.limits import Limit, fractions, minimums, multiples
from bonsai_core.units import KINDS_OF_SITE, WHOLE_KINDS, Site, SiteKind, UnitKind, UnitTable, Whole


@dataclass(frozen=True)
class Rules:
    """What the user and the checkpoint's format allow.

    Attributes:
        rank: ``importance``: a block's mean importance; ``density``: that per parameter.
        round_to: what numbers of units become multiples of.
        min_units: units that every site keeps; of layers, how many stay.
        max_fraction: share of its units that a site may lose; of layers, share of them.
        protect: layers that stay whole.
        shapes: ``free`` or ``uniform`` (all sites of a kind end equally wide).
        attention_counts: numbers of an attention's units that the stock class accepts, for uniform shapes; None: all.
    """

    units: tuple[UnitKind, ...] = ("attention", "mlp", "experts")
    rank: Literal["importance", "density"] = "importance"
    round_to: Limit[int] = field(default_factory=lambda: multiples(1))
    min_units: Limit[int] = field(default_factory=lambda: minimums(1))
    max_fraction: Limit[float] = field(default_factory=lambda: fractions(1.0))
    protect: frozenset[int] = frozenset()
    shapes: Literal["free", "uniform"] = "free"
    attention_counts: tuple[int, ...] | None = None

    def divides(self, site: Site) -> bool:
        """Whether a site's units may leave one by one."""
        return site.kind in self.units and not site.leaves_with_layer

    def minimum(self, site: Site) -> int:
        """Units that a site always keeps, unless all of it goes at once."""
        if site.layer in self.protect or not self.divides(site):
            return site.num_units
        by_fraction = math.ceil(site.num_units * (1 - self.max_fraction.by_kind[site.kind]) - 1e-9)
        return min(site.num_units, max(site.minimum, self.min_units.by_kind[site.kind], by_fraction))

    def minimum_layers(self, num_layers: int) -> int:
        """How many layers always stay."""
        most = math.floor(num_layers * self.max_fraction.by_kind["layer"] + 1e-9)
        return max(1, self.min_units.by_kind["layer"], num_layers - most, len(self.protect))

    def counts_below(self, site: Site, count: int) -> NDArray[np.int64]:
        """The numbers of units that a site with `count` of them may be cut down to, largest first, int64."""
        multiple, minimum = self.multiple(site.kind), self.minimum(site)
        counts = np.arange((count - 1) // multiple * multiple, -(-minimum // multiple) * multiple - 1, -multiple)
        if site.limited_by_stock and self.attention_counts is not None:
            return counts[np.isin(counts, self.attention_counts)]
        return counts

    def multiple(self, kind: SiteKind) -> int:
        """What numbers of units of this kind are multiples of."""
        return self.round_to.by_kind[kind]

    def wholes(self, table: UnitTable) -> tuple[Whole, ...]:
        """The sub-layers and layers that may leave, and free something."""
        return tuple(
            whole
            for whole in table.wholes(self.units)
            if whole.layer not in self.protect and table.params_of(whole.units)
        )

    def paying(self, table: UnitTable) -> Rules:
        """The same without kinds of unit that the model has and that free nothing of what the table counts."""
        return replace(self, units=tuple(kind for kind in self.units if self._pays(table, kind)))

    def _pays(self, table: UnitTable, kind: UnitKind) -> bool:
        if kind in WHOLE_KINDS:
            wholes = table.wholes([kind])
            return not wholes or any(table.params_of(whole.units) for whole in wholes)
        sites = [site for site in table if site.kind == kind]
        return not sites or any(site.cost(self.minimum(site)) < site.cost(site.num_units) for site in sites)

    def without_wholes(self) -> Rules | None:
        """The same for single units alone; None if wholes do not compete with any."""
        single = tuple(kind for kind in self.units if kind not in WHOLE_KINDS)
        return replace(self, units=single) if 0 < len(single) < len(self.units) else None

    def may_leave(self, table: UnitTable) -> NDArray[np.bool_]:
        """Units that may leave, alone or with a whole, bool [U]."""
        leave_U = np.zeros(len(table), dtype=bool)
        for site in table:
            leave_U[site.units] = site.kind in self.units and site.layer not in self.protect
        for whole in self.wholes(table):
            leave_U[whole.units] = True
        return leave_U

    def stuck(self, table: UnitTable) -> list[UnitKind]:
        """Kinds of unit that could leave this model, and of which these limits let none go."""
        unlimited = replace(self, min_units=minimums(1), round_to=multiples(1), max_fraction=fractions(1.0))
        return [kind for kind in self.units if unlimited._gives(table, kind) and not self._gives(table, kind)]

    def _gives(self, table: UnitTable, kind: UnitKind) -> bool:
        """Whether a unit of a kind can leave."""
        sites = [site for site in table if site.kind == kind]
        if any(site.leaves_with_layer for site in sites):
            num_layers = len({site.layer for site in table})
            return self.minimum_layers(num_layers) < num_layers
        return kind not in KINDS_OF_SITE or any(len(self.counts_below(site, site.num_units)) for site in sites)

    def describe(self) -> str:
        """The limits as options of the command line."""
        options = [
            f"--units {','.join(self.units)}",
            f"--min-units {self.min_units.given}",
            f"--round-to {self.round_to.given}",
        ]
        options += [f"--max-fraction {self.max_fraction.given}"] if self.max_fraction != fractions(1.0) else []
        options += [f"--protect {','.join(map(str, sorted(self.protect)))}"] if self.protect else []
        options += [f"--shapes {self.shapes}"]
        if self.attention_counts is not None:
            counts = ", ".join(map(str, self.attention_counts)) or "none"
            options += [f"(the stock class accepts {counts} of an attention's units)"]
        return " ".join(options)
