"""The decoder layers of a configuration: their number, and what it says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BY_LAYER = "layer"
"""What the names of lists with an entry per layer contain: `layer_types`, `no_rope_layers`, `layer_rope_theta`."""


def set_layers(config: Any, stay: Sequence[int]) -> None:
    """Leave the layers of these positions in a configuration, in place: their number, and what is said of each.

    Where a configuration says which layers have no experts, or have windows, it goes on saying so of those that are
    left. What is a period, such as `sliding_window_pattern`, cannot say it.
    """
    if len(stay) == config.num_hidden_layers:
        return
    if hasattr(config, "mlp_only_layers"):
        sparse = _sparse_layers(config)
        config.mlp_only_layers = [position for position, before in enumerate(stay) if not sparse[before]]
        config.decoder_sparse_step = 1
    if _windows_begin(config):
        config.max_window_layers = sum(position < config.max_window_layers for position in stay)
    for name, value in _lists(config).items():
        setattr(config, name, type(value)(value[position] for position in stay))
    config.num_hidden_layers = len(stay)


def layer_pattern(config: Any) -> Mapping[str, Sequence[Any]]:
    """What differs between the layers of a configuration: by the name of the field, the value of every layer."""
    values = _lists(config)
    if hasattr(config, "mlp_only_layers"):
        values["mlp_only_layers"] = ["experts" if sparse else "no experts" for sparse in _sparse_layers(config)]
    return {name: value for name, value in values.items() if any(other != value[0] for other in value)}


def _lists(config: Any) -> dict[str, Any]:
    """Lists with an entry per layer."""
    return {
        name: value
        for name, value in vars(config).items()
        if BY_LAYER in name and isinstance(value, list | tuple) and len(value) == config.num_hidden_layers
    }


def _windows_begin(config: Any) -> bool:
    """Whether the layers from `max_window_layers` on have windows, and no others; Qwen2-MoE means other layers."""
    first, kinds = getattr(config, "max_window_layers", None), getattr(config, "layer_types", None)
    if first is None or kinds is None or first >= len(kinds):
        return False
    return list(kinds) == ["full_attention" if n < first else "sliding_attention" for n in range(len(kinds))]


def _sparse_layers(config: Any) -> list[bool]:
    """Of every layer, whether it has experts, by the rule of Qwen's mixtures."""
    step, dense = getattr(config, "decoder_sparse_step", 1), set(config.mlp_only_layers or ())
    return [(layer + 1) % step == 0 and layer not in dense for layer in range(config.num_hidden_layers)]
