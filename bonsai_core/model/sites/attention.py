"""Attention, whatever its units are: its heads in the configuration and in the module, and what replaces all of it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any

from torch import nn

from bonsai_core.checkpoint import EmptyAttention
from bonsai_core.contracts import AttentionSite, Family
from bonsai_core.model.sites.linear_site import LinearSite, StandIn
from bonsai_core.model.structure.declared import declared_count, declared_linear

STAND_IN_CACHES = 2
"""Numbers per token, by which an emptied attention counts them: it stays until the layer leaves."""


class Attention(LinearSite):
    """The attention of a decoder layer."""

    @abstractmethod
    def _per_group(self, module: nn.Module, count: int) -> dict[str, int]:
        """Attributes of the attention's module that say how many query heads a KV group has, if that changes."""

    @classmethod
    def is_in(cls, layer: nn.Module, family: Family) -> bool:
        return family.attention is not None

    @classmethod
    def declared(cls, family: Family) -> AttentionSite:
        assert family.attention is not None
        return family.attention

    def _resize(self, count: int) -> None:
        """Put the numbers of heads where the forward pass reads them."""
        attention = self.declared(self.family)
        module = self.layer.module.get_submodule(attention.module)
        sizes = self.sizes(self.family, self.config, count)
        counts: dict[str, Any] = {name: sizes[attention.heads_field] for name in attention.heads_attributes}
        if attention.groups_field is not None:
            counts |= {name: sizes[attention.groups_field] for name in attention.groups_attributes}
        counts |= self._per_group(module, count)
        if attention.reads_config:
            counts["config"] = copy.copy(module.config)
            for field, number in sizes.items():
                setattr(counts["config"], field, number)
        for name, value in counts.items():
            setattr(module, name, value)

    def _empty(self, bias: nn.Parameter | None, position: int) -> StandIn:
        stand_in = EmptyAttention(position, bias)
        self.layer.module.set_submodule(self.declared(self.family).module, stand_in)
        return stand_in


def head_sizes(layer: nn.Module, attention: AttentionSite, family: Family, config: Any) -> tuple[int, int, int]:
    """Of a dense layer: the number of KV groups, the channels of a group's query heads together, and those of one."""
    width = declared_linear(layer, attention.path(attention.output), family).in_features
    groups = 1 if attention.groups_field is None else declared_count(config, attention.groups_field, family)
    return groups, width // groups, width // declared_count(config, attention.heads_field, family)
