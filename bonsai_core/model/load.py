"""Loads models and tokenizers: safetensors only, nobody else's code unless allowed."""

from __future__ import annotations

import hashlib
import sys
import warnings
import weakref
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from bonsai_core.checkpoint.modeling_bonsai import FILE_NAME
from bonsai_core.errors import BonsaiError
from bonsai_core.model.checked_config import checked_config
from bonsai_core.model.find import find_source, loading_error, model_config, register_checkpoints
from bonsai_core.model.placement import (
    DeviceMap,
    LoadIn,
    find_device,
    loading_options,
    remove_offloaded,
    use_general_kernels,
)
from bonsai_core.model.weight_check import listed


def load_model(
    source: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    load_in: LoadIn = "full",
    device_map: DeviceMap = "none",
    max_memory: str | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Any:
    """A causal LM in evaluation mode on its device; checkpoints of Bonsai load too, without remote code.

    Args:
        source: a directory, a Hugging Face id, or ``demo``.
        dtype: ``auto`` (the checkpoint's own), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (CUDA, else MPS, else CPU) or any name torch knows.
        load_in: ``8bit`` or ``4bit`` quantises linears on the way (bitsandbytes).
        device_map: ``auto`` spreads layers over devices, the CPU and the disk (accelerate).
        max_memory: of each, like ``0=20GiB,cpu=60GiB``; None: all that is free.
        warn: receives what the user should know about the files.

    Raises:
        BonsaiError: there is no such model or device, its files do not hold the weights that its configuration asks
            for, or it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    found = find_source(source)
    config = checked_config(found, trust_remote_code, warn)
    given = {"config": config, "trust_remote_code": trust_remote_code or None}
    return _loaded(AutoModelForCausalLM, found, given, dtype, device, load_in, device_map, max_memory)


def load_by_its_code(
    directory: str, *, device: str = "auto", device_map: DeviceMap = "none", max_memory: str | None = None
) -> Any:
    """A checkpoint of the shapes `free`, loaded by the modeling file in it, as where Bonsai is not installed.

    The file is run, so it has to be what Bonsai writes, to the letter.

    Args:
        directory: the checkpoint.
        device, device_map, max_memory: as for `load_model`.

    Raises:
        BonsaiError: it cannot be loaded, or has another modeling file.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    known = model_config(directory, trust_remote_code=False)
    file = Path(directory) / FILE_NAME
    if file.read_text(encoding="utf-8") != MODEL_FOR_CAUSAL_LM_MAPPING[type(known)].code():
        raise BonsaiError(f"{file} is not what this version of Bonsai writes, so it is not run.")
    # Not through transformers, which would leave a copy of the file in its cache.
    spec = spec_from_file_location(f"{file.stem}_of_a_checkpoint", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # transformers looks types up there
    spec.loader.exec_module(module)
    model_class = getattr(module, known.auto_map["AutoModelForCausalLM"].rpartition(".")[2])
    config = model_class.config_class.from_pretrained(directory)
    return _loaded(model_class, directory, {"config": config}, "auto", device, "full", device_map, max_memory)


def _loaded(
    loader: Any,
    found: str,
    given: dict[str, Any],
    dtype: str,
    device: str,
    load_in: LoadIn,
    device_map: DeviceMap,
    max_memory: str | None,
) -> Any:
    """What `loader` makes of a model that was found, in its place; the other arguments are those of `load_model`."""
    place = find_device(device)
    options = loading_options(load_in, device_map, max_memory, place, dtype)
    try:
        model, report = loader.from_pretrained(
            found, dtype=dtype, use_safetensors=True, output_loading_info=True, **given, **options
        )
        if report["missing_keys"]:  # of files that are quantised already, which nothing else has looked at
            raise ValueError(f"weights are not in its files: {listed(sorted(report['missing_keys']))}")
    except torch.OutOfMemoryError as error:
        remove_offloaded(options)
        raise BonsaiError(
            f"{found} does not fit on {place}: try --dtype bfloat16, --device-map auto (with the CPU and the disk), "
            f"or --load-in 4bit. ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        remove_offloaded(options)
        raise loading_error(found, error) from error
    except BaseException:
        remove_offloaded(options)
        raise
    weakref.finalize(model, remove_offloaded, options)
    use_general_kernels(model)
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
    """The same, with the settings of a run or an evaluation, which has been told of the files already."""
    return load_model(
        source,
        dtype=config.dtype,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
        load_in=config.load_in,
        device_map=config.device_map,
        max_memory=config.max_memory,
        warn=lambda text: None,
    )


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
        lacking = [package for package in ("sentencepiece", "google.protobuf") if not _installed(package)]
        if lacking and any(word in str(error) for word in ("tiktoken", "sentencepiece", "protobuf")):
            raise BonsaiError(
                f"The tokenizer of {source} is a SentencePiece model (tokenizer.model), which takes sentencepiece and "
                f"protobuf to read: pip install 'bonsai-prune[sentencepiece]'."
            ) from error
        raise loading_error(f"the tokenizer of {source}", error) from error


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def fingerprint(model: Any) -> str:
    """sha256 over names, shapes, types and the first values of all parameters: tells two parents apart, cheaply."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        head = parameter.detach().flatten()[:256].float().cpu().numpy().tobytes()
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode() + head)
    return digest.hexdigest()
