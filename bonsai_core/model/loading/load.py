"""Loads models and tokenizers: safetensors only, and no foreign code unless allowed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from bonsai_core.checkpoint.parent import VOCABULARIES
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.checked_config import checked_config
from bonsai_core.model.loading.lookup import find_source, loading_error, register_own
from bonsai_core.model.storage.devices import (
    DeviceMap,
    LoadIn,
    Placement,
    find_device,
    loading_options,
    remove_offloaded,
)
from bonsai_core.model.storage.offloaded import name_tied_weights
from bonsai_core.model.storage.weight_check import listed
from bonsai_core.upstream import use_general_kernels


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
        max_memory: of each device, like ``0=20GiB,cpu=60GiB``; None: all that is free.
        warn: receives what the user should know about the files.

    Raises:
        BonsaiError: there is no such model or device, its files do not hold the weights that its configuration asks
            for, or it cannot be loaded.
    """
    path = find_source(source)
    config = checked_config(path, trust_remote_code, warn)
    placement = Placement(dtype, device, load_in, device_map, max_memory)
    return load_checked(path, config, placement, trust_remote_code=trust_remote_code, warn=warn)


def load_checked(
    source: str, config: Any, placement: Placement, *, trust_remote_code: bool, warn: Callable[[str], None]
) -> Any:
    """The same, of a model whose configuration is known to fit its files, see `checked_config`; it is not changed."""
    from transformers import AutoModelForCausalLM

    given = {"config": deepcopy(config), "trust_remote_code": trust_remote_code or None}
    return load_with(AutoModelForCausalLM, source, given, placement, warn)


def load_with(
    loader: Any, source: str, given: dict[str, Any], placement: Placement, warn: Callable[[str], None]
) -> Any:
    """A model, loaded by a class of transformers; `given` are more arguments of its `from_pretrained`.

    Raises:
        BonsaiError: it cannot be loaded.
    """
    quantised = getattr(given["config"], "quantization_config", None)  # and its files with it
    place = find_device(placement.device)
    options = loading_options(placement, place)
    try:
        model, report = loader.from_pretrained(
            source, dtype=placement.dtype, use_safetensors=True, output_loading_info=True, **given, **options
        )
        if report["missing_keys"]:  # from files that are quantised already, which nothing else has checked
            raise ValueError(f"weights are not in its files: {listed(sorted(report['missing_keys']))}")
    except torch.OutOfMemoryError as error:
        remove_offloaded(options)
        raise BonsaiError(
            f"{source} does not fit on {place}: try --dtype bfloat16, --device-map auto (with the CPU and the disk), "
            f"or --load-in 4bit. ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        remove_offloaded(options)
        raise loading_error(source, error) from error
    except BaseException:
        remove_offloaded(options)
        raise
    weakref.finalize(model, remove_offloaded, options)
    if quantised and report["unexpected_keys"]:
        warn(f"{source} has tensors that are left out: {listed(sorted(report['unexpected_keys']))}.")
    name_tied_weights(model)
    use_general_kernels(model)
    return model.eval() if options else model.to(place).eval()


def load_tokenizer(source: str, *, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer.

    Raises:
        BonsaiError: it has none that loads.
    """
    from transformers import AutoTokenizer

    path = find_source(source)
    try:
        register_own(path)  # or the tokenizer of a pruned checkpoint asks about its modeling file
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code or None)
    except Exception as error:  # from code that reads whatever its files say
        lacking = [package for package in ("sentencepiece", "google.protobuf") if not _installed(package)]
        directory = Path(path)
        if directory.is_dir() and not any(any(directory.glob(name)) for name in VOCABULARIES):
            raise BonsaiError(
                f"{source} has no tokenizer: none of {', '.join(VOCABULARIES)} is in it. Put the tokenizer's "
                f"files there, of the model that it was made from."
            ) from error
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
