"""The number of decoder layers, in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BY_LAYER = ("layer_types", "_layers")
"""How the names of such lists end, as in `layer_types` and `no_rope_layers`."""


def set_layers(config: Any, stay: Sequence[int]) -> None:
    """Leave the layers of these positions in a configuration, in place: their number, and lists of one entry each.

    Where a configuration says which layers have no experts, it goes on saying so of the layers that are left.
    """
    for name, value in list(vars(config).items()):
        if name.endswith(BY_LAYER) and isinstance(value, list | tuple) and len(value) == config.num_hidden_layers:
            setattr(config, name, type(value)(value[position] for position in stay))
    if hasattr(config, "mlp_only_layers"):
        step, dense = getattr(config, "decoder_sparse_step", 1), set(config.mlp_only_layers)
        sparse = [(position + 1) % step == 0 and position not in dense for position in stay]
        config.mlp_only_layers = [position for position, is_sparse in enumerate(sparse) if not is_sparse]
        config.decoder_sparse_step = 1
    config.num_hidden_layers = len(stay)
