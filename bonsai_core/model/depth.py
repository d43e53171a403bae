"""The number of decoder layers, in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BY_LAYER = ("layer_types", "_layers")
"""How the names of such lists end, as in `layer_types` and `no_rope_layers`."""


def set_layers(config: Any, stay: Sequence[int]) -> None:
    """Leave the layers of these positions in a configuration, in place: their number, and lists of one entry each."""
    for name, value in list(vars(config).items()):
        if name.endswith(BY_LAYER) and isinstance(value, list | tuple) and len(value) == config.num_hidden_layers:
            setattr(config, name, type(value)(value[position] for position in stay))
    config.num_hidden_layers = len(stay)
