"""KV groups as units."""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import nn

from bonsai_core.contracts import Family
from bonsai_core.model.sites.attention import STAND_IN_CACHES, Attention, head_sizes
from bonsai_core.model.structure.linears import LinearLayout, fused
from bonsai_core.units import Price, SiteKind


@final
class AttentionGroups(Attention):
    """A unit is a KV group: its query heads, its key head and its value head."""

    kind: ClassVar[SiteKind] = "attention"

    @classmethod
    def layouts(cls, layer: nn.Module, family: Family, config: Any) -> tuple[LinearLayout, ...]:
        attention = cls.declared(family)
        _, per_group, head_dim = head_sizes(layer, attention, family, config)
        if attention.interleaved:
            inputs: tuple[LinearLayout, ...] = (
                LinearLayout(attention.path(attention.query), (per_group + 2 * head_dim,), 0),
            )
        else:
            names = (attention.query, attention.key, attention.value)
            inputs = fused(list(zip(map(attention.path, names), (per_group, head_dim, head_dim), strict=True)))
        return (*inputs, LinearLayout(attention.path(attention.output), (per_group,), 1))

    @classmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        return cls.declared(family).sizes(config, count)

    def cached_per_token(self) -> Price:
        """A key and a value, but for what a stand-in goes on caching."""
        *_, head_dim = head_sizes(self.layer.module, self.declared(self.family), self.family, self.config)
        return Price(2 * head_dim, -STAND_IN_CACHES)

    def _per_group(self, module: nn.Module, count: int) -> dict[str, int]:
        return {}
