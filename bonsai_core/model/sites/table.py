"""The kinds of site, and what they give together: a model's unit table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.sites.attention_groups import AttentionGroups
from bonsai_core.model.sites.expert_widths import ExpertWidths
from bonsai_core.model.sites.experts import Experts
from bonsai_core.model.sites.mlp import Mlp
from bonsai_core.model.sites.model_site import ModelSite
from bonsai_core.model.sites.query_heads import QueryHeads
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import KINDS_OF_SITE, Site, SiteKind, UnitKind, UnitTable

SITES: Mapping[SiteKind, type[ModelSite]] = {
    "attention": AttentionGroups,
    "query": QueryHeads,
    "mlp": Mlp,
    "experts": Experts,
    "expert_width": ExpertWidths,
}
"""In the order of the sites of a layer. A `layer` site has no class: the layer itself is removed."""


def site_kinds(layer: nn.Module, family: Family, units: Collection[UnitKind] = ()) -> tuple[SiteKind, ...]:
    """The sites of a layer, in order; `units` as for `unit_table`."""
    replaced = {KINDS_OF_SITE[kind].replaces for kind in SITES if kind in units}
    return tuple(
        kind
        for kind, model_site in SITES.items()
        if kind not in replaced
        and (kind in units or KINDS_OF_SITE[kind].replaces is None)
        and model_site.is_in(layer, family)
    )


def unit_table(model: Any, family: Family, units: Collection[UnitKind] = ()) -> UnitTable:
    """Numbers a dense model's units and prices them. Works on the meta device too.

    Args:
        units: what may leave. A kind that replaces another, such as ``query``, divides a site into its own units; with
            ``layer`` every layer gets a site for what leaves only with all of it. All else is always in the table.

    Raises:
        BonsaiError: the model is not as declared, or has no query heads to spare.
    """
    sites: list[Site] = []
    first = 0
    layers = decoder_layers(model, family)
    if not len(layers):
        raise BonsaiError("The model's configuration gives it no layers, so there is nothing to prune.")
    with_layers = [kind for kind, facts in KINDS_OF_SITE.items() if facts.leaves_with_layer and kind in units]
    for number, module in enumerate(layers):
        layer, here = DecoderLayer(number, module), len(sites)
        for kind in site_kinds(module, family, units):
            sites.append(SITES[kind].declare(layer, first, family, model.config))
            first += sites[-1].num_units
        for kind in with_layers:
            others = sum(site.num_units * site.unit_params + site.rest_params for site in sites[here:])
            price = sum(parameter.numel() for parameter in module.parameters()) - others
            sites.append(Site(f"layers.{number}", number, kind, first, 1, price, 0))
            first += 1
    decoder = sum(parameter.numel() for parameter in layers.parameters())
    return UnitTable(tuple(sites), decoder, sum(parameter.numel() for parameter in model.parameters()))
