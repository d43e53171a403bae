"""Query heads as units, one of every KV group together."""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.sites.attention import STAND_IN_CACHES, Attention, head_sizes
from bonsai_core.model.structure.linears import LinearLayout
from bonsai_core.units import Price, SiteKind

PER_GROUP = "num_key_value_groups"
"""Where attentions in transformers keep the number of query heads per KV group."""


@final
class QueryHeads(Attention):
    """A unit is one query head of every KV group; keys and values stay until the last unit has left."""

    kind: ClassVar[SiteKind] = "query"

    @classmethod
    def layouts(cls, layer: nn.Module, family: Family, config: Any) -> tuple[LinearLayout, ...]:
        attention = cls.declared(family)
        groups, per_group, head_dim = head_sizes(layer, attention, family, config)
        if head_dim == per_group:
            raise BonsaiError("Every KV group of this model has one query head: prune attention, not query.")
        is_fused = attention.query in (attention.key, attention.value)
        of_group = 2 * head_dim if is_fused else 0  # its key and its value
        others = {"tail": of_group} if attention.interleaved else {"rest": groups * of_group}
        query = LinearLayout(attention.path(attention.query), (head_dim,), 0, groups, **others)
        return (query, LinearLayout(attention.path(attention.output), (head_dim,), 1, groups))

    @classmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        return cls.declared(family).query_sizes(config, count)

    def cached_per_token(self) -> Price:
        """Keys and values of all groups go with the last query head."""
        groups, _, head_dim = head_sizes(self.layer.module, self.declared(self.family), self.family, self.config)
        return Price(0, 2 * groups * head_dim - STAND_IN_CACHES)

    def _per_group(self, module: nn.Module, count: int) -> dict[str, int]:
        return {PER_GROUP: count} if hasattr(module, PER_GROUP) else {}
