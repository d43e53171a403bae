"""Where a run's checkpoint will load, known before the run starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bonsai_core.config import RunConfig
from bonsai_core.model.structure.layer_count import layer_pattern

FREE = "transformers: with bonsai-prune installed, or anywhere with trust_remote_code=True"
STOCK = "transformers without anything else, and every runtime that reads its family's stock checkpoints"
PATTERNED = "transformers 4.57 and newer, and runtimes that read the kind of every layer from config.json"


def runtimes(config: RunConfig, parent_config: Any) -> str:
    """What loads the checkpoint of a run.

    Args:
        parent_config: the parent's transformers configuration.
    """
    if not config.stock:
        return FREE
    return PATTERNED if _pattern_at_risk(config, parent_config) else STOCK


def warn_of_pattern(config: RunConfig, parent_config: Any, warn: Callable[[str], None]) -> None:
    """Warn where leaving layers would mislead runtimes that take the kind of a layer from its number."""
    pattern = _pattern_at_risk(config, parent_config)
    if not pattern:
        return
    number = parent_config.num_hidden_layers
    periods = {_period(values) for values in pattern.values()}
    whole = f", or {max(periods)} consecutive ones at once" if len(periods) == 1 and max(periods) < number else ""
    warn(
        f"The layers of this model are not all of one kind ({', '.join(pattern)}), and those after a layer that "
        f"leaves move up. config.json will say which kind each of them is, and transformers 4.57 and newer read that. "
        f"Runtimes that tell the kind from a layer's number (llama.cpp and others do for some families) will "
        f"compute something else without an error, unless the layers that leave are the last ones{whole}: "
        f"--protect names those that stay."
    )


def _pattern_at_risk(config: RunConfig, parent_config: Any) -> Mapping[str, Sequence[Any]]:
    """What a stock checkpoint says of its layers that would no longer follow from their numbers."""
    if not config.stock or "layer" not in config.units:
        return {}
    number = parent_config.num_hidden_layers
    may_leave = set(range(number)) - {layer % number for layer in config.protect}
    return {} if may_leave <= {number - 1} else layer_pattern(parent_config)


def _period(values: Sequence[Any]) -> int:
    """The period of a pattern that repeats at least once in full; otherwise the number of layers."""
    steps = range(1, len(values) // 2 + 1)
    return next((step for step in steps if values[step:] == values[:-step]), len(values))
