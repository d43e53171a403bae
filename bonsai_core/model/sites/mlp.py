"""Channels of an MLP as units."""

from __future__ import annotations

from typing import Any, ClassVar, final

from torch import nn

from bonsai_core.checkpoint import EmptyMLP
from bonsai_core.contracts import Family, MlpSite
from bonsai_core.model.sites.linear_site import LinearSite, StandIn
from bonsai_core.model.sites.mixture import has_experts
from bonsai_core.model.structure.linears import LinearLayout, fused
from bonsai_core.units import Price, SiteKind


@final
class Mlp(LinearSite):
    """A unit is a channel: a row of every input projection and a column of the output projection."""

    kind: ClassVar[SiteKind] = "mlp"

    @classmethod
    def is_in(cls, layer: nn.Module, family: Family) -> bool:
        return not has_experts(layer, family)

    @classmethod
    def declared(cls, family: Family) -> MlpSite:
        return family.mlp

    @classmethod
    def layouts(cls, layer: nn.Module, family: Family, config: Any) -> tuple[LinearLayout, ...]:
        mlp = family.mlp
        inputs = fused([(mlp.path(name), 1) for name in mlp.inputs])
        return (*inputs, LinearLayout(mlp.path(mlp.output), (1,), 1))

    @classmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        return {family.mlp.width_field: count}

    def cached_per_token(self) -> Price:
        return Price(0)

    def _resize(self, count: int) -> None:
        """Its forward pass reads the width off the linears."""

    def _empty(self, bias: nn.Parameter | None, position: int) -> StandIn:
        mlp, layer, stand_in = self.family.mlp, self.layer.module, EmptyMLP(bias)
        if not mlp.module:
            for name in mlp.inputs:
                layer.set_submodule(name, nn.Identity())
        layer.set_submodule(mlp.module or mlp.output, stand_in)
        return stand_in
