"""Opens a checkpoint for export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bonsai_core.checkpoint.modeling_bonsai import PREFIX
from bonsai_core.contracts import Checkpoint, Family
from bonsai_core.model.loading.checked_config import checked_config, model_directory
from bonsai_core.model.loading.lookup import declared_family, find_source
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.registry.registry import Registry


def open_checkpoint(
    name: str, registry: Registry, warn: Callable[[str], None], *, trust_remote_code: bool = False
) -> Checkpoint:
    """A model by the name that users give it; none of its weights is loaded.

    Args:
        name: a run directory, a checkpoint, a Hugging Face id or ``demo``.

    Raises:
        BonsaiError: there is no such model, or its files do not fit its configuration.
    """
    source = find_source(name)
    config = checked_config(source, trust_remote_code, warn)
    family = declared_family(config, registry, find_provenance(name).setting("slicer"), warn)
    return describe(model_directory(source), config, family)


def describe(path: Path, config: Any, family: Family | None) -> Checkpoint:
    """A checkpoint whose files are known to fit its configuration."""
    stock = not config.model_type.startswith(PREFIX)
    number = getattr(config, "num_hidden_layers", 0)  # models without a family may name it otherwise
    layers = [_sizes(config if stock else config.per_layer_config[n], family) for n in range(number)]
    declared = None if family is None else family.of(config)
    return Checkpoint(path, config, config.model_type.removeprefix(PREFIX), declared, tuple(layers), stock)


def _sizes(config: Any, family: Family | None) -> Mapping[str, int]:
    """The sizes that a configuration, of a model or of a layer, gives."""
    if family is None:
        return {}
    fields = [family.mlp.width_field]
    if family.attention is not None:
        fields += [family.attention.heads_field, family.attention.groups_field or ""]
    if family.experts is not None:
        fields += [family.experts.count_field, family.experts.width_field]
    return {field: getattr(config, field) for field in fields if isinstance(getattr(config, field, None), int)}
