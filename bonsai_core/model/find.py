"""Finds a model by name, and how it is built, before any weight is read."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from bonsai_core.checkpoint import register
from bonsai_core.checkpoint.modeling_bonsai import PREFIX
from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.model.layout import find_family, unit_table
from bonsai_core.model.recognise import recognise
from bonsai_core.registry import Registry
from bonsai_core.sources import demo_model_dir, user_path
from bonsai_core.units import UnitTable

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Parent:
    """A model that was found but not loaded.

    Attributes:
        name: what the user asked for.
        source: a directory or a hub id.
        config: its transformers configuration.
        family: how it is built.
    """

    name: str
    source: str
    config: Any
    family: Family


def find_parent(name: str, registry: Registry, *, slicer: str = "auto", trust_remote_code: bool = False) -> Parent:
    """Look a model up and check that it can be pruned, before any weight is read.

    An architecture that no family is declared for is recognised if it can be, see `recognise`.

    Raises:
        BonsaiError: no such model, no safetensors weights, or an unsupported architecture.
    """
    source = find_source(name)
    config = model_config(source, trust_remote_code)
    if stock_class(type(config)) is not type(config):
        raise BonsaiError(
            f"{name} is a pruned checkpoint with shapes free, which cannot be pruned again. Prune its base model with "
            f"a larger --sparsity instead."
        )
    if getattr(config, "quantization_config", None):
        raise BonsaiError(
            f"{name} is quantised already, and slicing needs weights in full precision. Give the model that it was "
            f"made from; --load-in 8bit or 4bit quantises it while it is measured."
        )
    families = registry.families()
    family = find_family(families, slicer, config) or _recognised(config, families)
    return Parent(name, source, config, family.of(config))


def find_source(name: str) -> str:
    """The directory or hub id behind a model's name; directories are checked for configuration and weights."""
    if name == "demo":
        return str(demo_model_dir())
    path = user_path(name)
    if path.is_dir():
        _check_directory(path)
        return str(path)
    if path.exists():
        raise BonsaiError(f"The model {name} is a file; give the directory that holds config.json and *.safetensors.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BonsaiError(f"There is no model directory {name}. Give a directory, a Hugging Face id, or 'demo'.")
    return name


def model_config(source: str, trust_remote_code: bool) -> Any:
    """The transformers configuration of a model.

    Raises:
        BonsaiError: there is none that loads.
    """
    from transformers import AutoConfig

    register_checkpoints(of=source)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code or None)
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise loading_error(source, error) from error


def declared_family(config: Any) -> Family | None:
    """The family of a dense or pruned model, by its configuration, if one is declared."""
    return find_family(Registry().families(), "auto", config)


def register_checkpoints(registry: Registry | None = None, *, of: str | None = None) -> None:
    """Teach transformers' auto classes the free-shape checkpoints of every declared family.

    Args:
        registry: the plugins; None loads all installed ones.
        of: a directory with such a checkpoint, whose family may have been recognised; it is made known too.
    """
    families = (registry or Registry()).families()
    model_types = {model_type for family in families for model_type in family.model_types}
    if of is not None:
        with suppress(OSError, ValueError, TypeError, AttributeError, LookupError):  # told when it is loaded
            saved = json.loads((user_path(of) / "config.json").read_text(encoding="utf-8"))["model_type"]
            if saved.startswith(PREFIX):
                model_types.add(saved.removeprefix(PREFIX))
    for model_type in sorted(model_types):
        # One plugin's model type that this transformers lacks stops nobody else's.
        with suppress(UnknownNameError):
            register([model_type])


def load_unit_table(config: RunConfig, registry: Registry) -> UnitTable:
    """The unit table of the configured model, from its configuration alone: no weight is read.

    Raises:
        BonsaiError: no such model, or an unsupported architecture.
    """
    parent = find_parent(config.model, registry, slicer=config.slicer, trust_remote_code=config.trust_remote_code)
    return table_of(parent, config)


def table_of(parent: Parent, config: RunConfig) -> UnitTable:
    """The unit table of a model that was found but not loaded."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parent.config, trust_remote_code=config.trust_remote_code or None)
    return unit_table(model, parent.family, config.units)


def loading_error(what: str, error: Exception) -> BonsaiError:
    """What to tell of a model or tokenizer that does not load."""
    # What is wrong with a field of config.json stands in the cause.
    text = str(error.__cause__ or error) if isinstance(error, StrictDataclassError) else str(error)
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return BonsaiError(
        f"Cannot load {what}: {reason} (Give a model directory, a Hugging Face id that can be reached from here, "
        f"or 'demo'. Code that comes with a model runs only with --trust-remote-code.)"
    )


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise BonsaiError(f"{path} is no model directory: there is no config.json in it.")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickled:
        raise BonsaiError(
            f"{path} has its weights in pickle files only ({', '.join(pickled)}), which can run any code when they "
            f"are read, so they are refused. Convert them to safetensors in a place you trust: load the model there "
            f"with transformers and call save_pretrained."
        )
    raise BonsaiError(f"{path} has no weights: there is no *.safetensors file in it.")


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
            f"own ({text.model_type!r}) can be taken out and pruned: the README shows how, under Model families."
        )
    try:
        if not type(config).__module__.startswith("transformers."):
            raise BonsaiError(
                "its code is no part of transformers, which checkpoints of recognised models are made from"
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
            f"inputs=('gate_proj', 'up_proj'), output='down_proj'))]; CONTRIBUTING.md shows how."
        ) from None
