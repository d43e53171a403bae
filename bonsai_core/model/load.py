"""Finds a model by name and loads it for inference: safetensors only, nobody else's code unless allowed."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from bonsai_core.checkpoint import register
from bonsai_core.checkpoint.modeling_bonsai import PREFIX
from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.model.layout import find_family, unit_table
from bonsai_core.model.placement import DeviceMap, LoadIn, loading_options, remove_offloaded
from bonsai_core.model.recognise import recognise
from bonsai_core.model.weight_files import WeightFiles
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


def load_model(
    source: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    load_in: LoadIn = "full",
    device_map: DeviceMap = "none",
    max_memory: str | None = None,
) -> Any:
    """A causal LM in evaluation mode on its device; checkpoints of Bonsai load too, without remote code.

    Args:
        source: a directory, a Hugging Face id, or ``demo``.
        dtype: ``auto`` (the checkpoint's own), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA, else MPS, else CPU) or any name torch knows.
        load_in: ``8bit`` or ``4bit`` quantises linears on the way (bitsandbytes).
        device_map: ``auto`` spreads layers over devices, the CPU and the disk (accelerate).
        max_memory: of each, like ``0=20GiB,cpu=60GiB``; None: all that is free.

    Raises:
        BonsaiError: there is no such model or device, or it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    register_checkpoints(of=source)
    place = find_device(device)
    options = loading_options(load_in, device_map, max_memory, place, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            find_source(source),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code or None,
            **options,
        )
    except torch.OutOfMemoryError as error:
        remove_offloaded(options)
        raise BonsaiError(
            f"{source} does not fit on {place}: try --dtype bfloat16, --device-map auto (with the CPU and the disk), "
            f"or --load-in 4bit. ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        remove_offloaded(options)
        raise _loading_error(source, error) from error
    except BaseException:
        remove_offloaded(options)
        raise
    weakref.finalize(model, remove_offloaded, options)
    return model.eval() if options else model.to(place).eval()


class LoadSettings(Protocol):
    """Settings, of a run or an evaluation, that say how a model is loaded; see `load_model`."""

    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def load_in(self) -> LoadIn: ...
    @property
    def device_map(self) -> DeviceMap: ...
    @property
    def max_memory(self) -> str | None: ...


def load_as_configured(source: str, config: LoadSettings) -> Any:
    """The same, with the settings of a run or an evaluation."""
    return load_model(
        source,
        dtype=config.dtype,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        load_in=config.load_in,
        device_map=config.device_map,
        max_memory=config.max_memory,
    )


def weight_files(source: str, model: Any) -> WeightFiles:
    """The weights of a loaded model on disk."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    renamings = [change for change in get_model_conversion_mapping(model) if isinstance(change, WeightRenaming)]

    def renamed(name: str) -> str:
        for renaming in renamings:
            name = renaming.rename_source_key(name)[0]
        return name

    return WeightFiles(weights_directory(source), renamed)


def weights_directory(source: str) -> Path:
    """Where the weights of a model that was loaded lie; those of a Hugging Face id lie in the cache."""
    directory = Path(find_source(source))
    if directory.is_dir():
        return directory
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.safetensors.index.json"]
    return Path(snapshot_download(source, allow_patterns=patterns, local_files_only=True))


def load_tokenizer(source: str, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer.

    Raises:
        BonsaiError: it has none that loads.
    """
    from transformers import AutoTokenizer

    register_checkpoints(of=source)  # or the tokenizer of a pruned checkpoint asks about its modeling file
    try:
        return AutoTokenizer.from_pretrained(find_source(source), trust_remote_code=trust_remote_code or None)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _loading_error(f"the tokenizer of {source}", error) from error


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


def declared_family(source: str, *, trust_remote_code: bool = False) -> Family | None:
    """The family of a dense or pruned checkpoint, if one is declared."""
    return find_family(Registry().families(), "auto", model_config(find_source(source), trust_remote_code))


def start_token(family: Family | None, tokenizer: Any) -> int | None:
    """The token that every window has to begin with, if the family wants one."""
    if family is None or not family.starts_with_bos:
        return None
    token: int | None = tokenizer.bos_token_id
    return token


def check_positions(config: Any, family: Family | None, sequence_length: int, warn: Callable[[str], None]) -> None:
    """Tell that windows are longer than what the model was made for: perplexities on them say little.

    Raises:
        BonsaiError: the model has no weights for so many positions.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is None or sequence_length <= most:
        return
    text = f"Windows of {sequence_length:,} tokens are longer than the {most:,} positions the model was made for."
    if family is not None and family.learned_positions:
        raise BonsaiError(f"{text} It has none beyond: give a shorter --sequence-length and --eval-sequence-length.")
    warn(text)


def find_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes CUDA, else MPS, else the CPU.

    Raises:
        BonsaiError: torch does not know the name, or has no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            here.append("mps")
        reason = str(error).splitlines()[0]
        raise BonsaiError(f"The device {name!r} cannot be used: {reason} Available: {', '.join(here)}.") from None
    return device


def fingerprint(model: Any) -> str:
    """sha256 over names, shapes, types and the first values of all parameters: tells two parents apart, cheaply."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        head = parameter.detach().flatten()[:256].float().cpu().numpy().tobytes()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode() + head)
    return digest.hexdigest()


def _recognised(config: Any, families: list[Family]) -> Family:
    """The family of an architecture that none is declared for.

    Raises:
        BonsaiError: it cannot be recognised.
    """
    try:
        if not type(config).__module__.startswith("transformers."):
            raise BonsaiError(
                "its code is no part of transformers, which checkpoints of recognised models are made from"
            )
        return recognise(config)
    except BonsaiError as error:
        architecture = (getattr(config, "architectures", None) or ["This model"])[0]
        known = ", ".join(sorted({kind for family in families for kind in family.model_types})) or "none"
        raise BonsaiError(
            f"{architecture} (model type {config.model_type!r}) is not supported, and its structure was not "
            f"recognised: {error}. Supported model types: {known}. To add one, declare its family in a plugin: a "
            f"bonsai_slicers hook that returns Family(name=..., model_types=({config.model_type!r},), "
            f"attention=AttentionSite(...), mlp=MlpSite(...)); CONTRIBUTING.md shows how."
        ) from None


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
        raise _loading_error(source, error) from error


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


def _loading_error(what: str, error: Exception) -> BonsaiError:
    # What is wrong with a field of config.json stands in the cause.
    text = str(error.__cause__ or error) if isinstance(error, StrictDataclassError) else str(error)
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return BonsaiError(
        f"Cannot load {what}: {reason} (Give a model directory, a Hugging Face id that can be reached from here, "
        f"or 'demo'. Code that comes with a model runs only with --trust-remote-code.)"
    )
