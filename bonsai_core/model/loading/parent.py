"""The model to be pruned, and how it is built, before it is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.checked_config import empty_stock, fit_to_files
from bonsai_core.model.loading.load import load_checked
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.model.recognition.recognise import recognise
from bonsai_core.model.sites.table import unit_table
from bonsai_core.model.storage.devices import Placement, find_device
from bonsai_core.model.structure.declared import find_family
from bonsai_core.registry.registry import Registry
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class Parent:
    """A model that is not loaded yet.

    Attributes:
        source: a directory or a hub id.
        as_read: its transformers configuration, from its config.json.
        config: the same, made to fit its files, see `fit_to_files`.
    """

    name: str
    source: str
    as_read: Any
    config: Any
    family: Family


def find_parent(
    config: RunConfig, registry: Registry, *, download: bool = True, warn: Callable[[str], None] = warnings.warn
) -> Parent:
    """Look up the configured model and check that it can be pruned, before it is loaded.

    An architecture that no family is declared for is recognised if it can be, see `recognise`.

    Args:
        download: get the weights of a Hugging Face id; otherwise they are checked when they are loaded.

    Raises:
        BonsaiError: no such model, no safetensors weights, weights that do not fit the configuration, or an unsupported
            architecture.
    """
    name, trusted = config.model, config.trust_remote_code
    source = find_source(name)
    as_read = model_config(source, trusted)
    if stock_class(type(as_read)) is not type(as_read):
        base = find_provenance(name).dense
        raise BonsaiError(
            f"{name} is a pruned checkpoint with shapes free, which cannot be pruned again. Prune its base model"
            f"{f', {base},' if base else ''} with a larger --sparsity instead."
        )
    if getattr(as_read, "quantization_config", None):
        raise BonsaiError(
            f"{name} is quantised already, and slicing needs weights in full precision. Give the model that it was "
            f"made from; --load-in 8bit or 4bit quantises it while it is measured."
        )
    families = registry.families()
    family = find_family(families, config.slicer, as_read) or _recognised(as_read, families)
    checked = download or Path(source).is_dir()
    fitted = fit_to_files(as_read, source, trusted, warn) if checked else as_read
    return Parent(name, source, as_read, fitted, family.of(fitted))


def load_parent(parent: Parent, config: RunConfig, warn: Callable[[str], None]) -> Any:
    """Load a model that was looked up.

    Raises:
        BonsaiError: it cannot be loaded.
    """
    placement = Placement.of(config)
    return load_checked(parent.source, parent.config, placement, trust_remote_code=config.trust_remote_code, warn=warn)


def load_for_sweeps(parent: Parent, config: RunConfig) -> Any:
    """The same with its matrices left in its files, to be fetched a layer at a time: norms alone are in memory."""
    device, path = str(find_device(config.device)), parent.family.layers.split(".")
    module = empty_stock(parent.config, parent.source, config.trust_remote_code)
    placed = {parent.family.layers: "disk"}
    for depth, on_the_way in enumerate(path):
        for name, other in module.named_children():
            if name != on_the_way:
                has_matrix = any(parameter.ndim > 1 for parameter in other.parameters())
                placed[".".join((*path[:depth], name))] = "disk" if has_matrix else device
        module = module.get_submodule(on_the_way)
    placement = replace(Placement.of(config), placed=placed)
    return load_checked(
        parent.source, parent.config, placement, trust_remote_code=config.trust_remote_code, warn=lambda text: None
    )


def load_unit_table(config: RunConfig, registry: Registry, warn: Callable[[str], None] = warnings.warn) -> UnitTable:
    """The unit table of the configured model, which is not loaded.

    Raises:
        BonsaiError: as for `find_parent`.
    """
    return table_of(find_parent(config, registry, download=False, warn=warn), config)


def table_of(parent: Parent, config: RunConfig) -> UnitTable:
    """The unit table of a model that was looked up."""
    model = empty_stock(parent.config, parent.source, config.trust_remote_code)
    return unit_table(model, parent.family, config.units)


def _recognised(config: Any, families: list[Family]) -> Family:
    """The family of an architecture that none is declared for.

    Raises:
        BonsaiError: it cannot be recognised.
    """
    architecture = (getattr(config, "architectures", None) or ["This model"])[0]
    text = config.get_text_config()
    if text is not config:
        raise BonsaiError(
            f"{architecture} (model type {config.model_type!r}) is multimodal, and Bonsai prunes language models. Its "
            f"own ({text.model_type!r}) can be extracted and pruned: docs/own-model.md shows how."
        )
    try:
        if not type(config).__module__.startswith("transformers."):
            raise BonsaiError(
                "its code is not part of transformers, which checkpoints of recognised models are made from"
            )
        return recognise(config)
    except BonsaiError as error:
        known = ", ".join(sorted({kind for family in families for kind in family.model_types})) or "none"
        raise BonsaiError(
            f"{architecture} (model type {config.model_type!r}) is not supported, and its structure was not "
            f"recognised: {error}. Supported model types: {known}. To add one, declare its family in a plugin, with "
            f"its own names in place of LLaMA's: a bonsai_slicers hook that returns [Family(name='mine', "
            f"model_types=({config.model_type!r},), layers='model.layers', attention=AttentionSite(module='self_attn', "
            f"query='q_proj', key='k_proj', value='v_proj', output='o_proj'), mlp=MlpSite(module='mlp', "
            f"inputs=('gate_proj', 'up_proj'), output='down_proj'))]; docs/plugins/family.md shows how."
        ) from None
