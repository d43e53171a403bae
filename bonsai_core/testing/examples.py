"""A small unit table with everything that real ones have: costly KV groups, cheap channels, tiny sites."""

from __future__ import annotations

from bonsai_core.units import Site, SiteKind, UnitTable

GROUP_PARAMS, CHANNEL_PARAMS, FIXED_PARAMS, EMBEDDINGS = 640, 96, 64, 5000


def example_table(
    num_layers: int = 4, num_groups: int = 4, width: int = 24, *, layers_leave: bool = False
) -> UnitTable:
    """Sites of `num_layers` layers, attention and MLP by turns; norms cost `FIXED_PARAMS` a layer."""
    sites: list[Site] = []
    first = 0
    sizes: tuple[tuple[SiteKind, int, int, int], ...] = (
        ("attention", num_groups, GROUP_PARAMS, 8),
        ("mlp", width, CHANNEL_PARAMS, 1),
    )
    for layer in range(num_layers):
        for kind, num_units, params, channels in sizes:
            sites.append(Site(f"layers.{layer}.{kind}", layer, kind, first, num_units, params, channels))
            first += num_units
        if layers_leave:
            sites.append(Site(f"layers.{layer}", layer, "layer", first, 1, FIXED_PARAMS, 0))
            first += 1
    decoder = num_layers * (num_groups * GROUP_PARAMS + width * CHANNEL_PARAMS + FIXED_PARAMS)
    return UnitTable(tuple(sites), decoder, decoder + EMBEDDINGS)
