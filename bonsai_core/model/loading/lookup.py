"""Finds a model by name, its configuration and its declared family, before any weight is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from bonsai_core.checkpoint import register
from bonsai_core.checkpoint.modeling_bonsai import PREFIX
from bonsai_core.checkpoint.weights import FILE_NAME, INDEX_NAME, has_weights
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.model.structure.declared import find_family
from bonsai_core.registry.registry import Registry
from bonsai_core.sources import demo_model_dir, user_path

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ADAPTER_NAME = "adapter_config.json"


def find_source(name: str) -> str:
    """The directory or hub id behind a model's name; a run directory means the checkpoint in it.

    Directories are checked for configuration and weights.

    Raises:
        BonsaiError: there is no such model, or what is there cannot be used.
    """
    if name == "demo":
        return str(demo_model_dir())
    path = user_path(find_provenance(name).source)
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

    try:
        register_own(source)
        return AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code or None)
    except Exception as error:  # from the configuration's own code, which computes with whatever config.json says
        raise loading_error(source, error) from error


def declared_family(config: Any, registry: Registry, slicer: str | None, warn: Callable[[str], None]) -> Family | None:
    """The family that is declared for a dense or pruned model; None where there is none.

    Args:
        slicer: of the run that pruned it, or will prune it; None where no run is known.
    """
    families = registry.families()
    try:
        return find_family(families, slicer or "auto", config)
    except UnknownNameError as error:
        warn(f"The model was pruned with a plugin that is not here, and its model type decides instead. {error}")
        return find_family(families, "auto", config)


def register_checkpoints(registry: Registry | None = None) -> None:
    """Register the free-shape checkpoints of every declared family with transformers' auto classes.

    Without a registry, those of all installed plugins.
    """
    families = (registry or Registry()).families()
    for model_type in sorted({model_type for family in families for model_type in family.model_types}):
        _register(model_type)


def register_own(source: str) -> None:
    """The same for the model in one directory or behind one Hugging Face id, whether its family is declared or not.

    Raises:
        OSError: its configuration cannot be read.
    """
    from transformers import PreTrainedConfig

    model_type = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    if isinstance(model_type, str) and model_type.startswith(PREFIX):
        _register(model_type.removeprefix(PREFIX))


def _register(model_type: str) -> None:
    # A plugin may declare a model type that this transformers lacks; the others must still be registered.
    with suppress(UnknownNameError):
        register([model_type])


def loading_error(what: str, error: Exception) -> BonsaiError:
    """The error for a model or tokenizer that does not load."""
    # transformers puts what is wrong with a field of config.json into the cause.
    text = str(error.__cause__ or error) if isinstance(error, StrictDataclassError) else str(error)
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, KeyError | AttributeError | ArithmeticError):  # whose messages are not sentences
        reason = f"{type(error).__name__} {reason}: a field of config.json, or of a file beside it, is wrong."
    return BonsaiError(
        f"Cannot load {what}: {reason} (Give a model directory, a Hugging Face id that can be reached from here, "
        f"or 'demo'. Code that comes with a model runs only with --trust-remote-code.)"
    )


def _beside(path: Path) -> str:
    """Which model an adapter is for, or that there is one beside it."""
    if (path / "config.json").is_file():
        return "beside a model, which transformers would apply without a word"
    with suppress(OSError, ValueError, TypeError, AttributeError):
        base = json.loads((path / ADAPTER_NAME).read_text(encoding="utf-8")).get("base_model_name_or_path")
        return f"for the model {base}, not a model"
    return "and not a model"


def _check_directory(path: Path) -> None:
    if (path / ADAPTER_NAME).is_file():
        raise BonsaiError(
            f"{path} holds an adapter ({ADAPTER_NAME}) {_beside(path)}. Merge it first, and give the merged model: "
            f"load it with peft's AutoPeftModelForCausalLM.from_pretrained, call merge_and_unload() on it, then "
            f"save_pretrained."
        )
    if not (path / "config.json").is_file():
        raise BonsaiError(f"{path} is not a model directory: there is no config.json in it.")
    if has_weights(path):
        return
    others = sorted(file.name for file in path.glob("*.safetensors"))
    if others:
        raise BonsaiError(
            f"{path} has weights under names that transformers does not look for ({', '.join(others[:5])}): it reads "
            f"{FILE_NAME}, or the files that {INDEX_NAME} names. Download the model in the format of transformers."
        )
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES)
    if pickled:
        raise BonsaiError(
            f"{path} has its weights in pickle files only ({', '.join(pickled)}), which can run any code when they "
            f"are read, so they are refused. Convert them to safetensors in a place you trust: load the model there "
            f"with transformers and call save_pretrained."
        )
    raise BonsaiError(f"{path} has no weights: there is no {FILE_NAME} in it, and no {INDEX_NAME}.")
