"""The configuration of a model whose files are known to fit it, in a directory or on the hub."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from bonsai_core.checkpoint.parent import CONFIG, GENERATION, TOKENIZER_FILES
from bonsai_core.checkpoint.weights import FILE_NAME, INDEX_NAME, has_weights, read_index
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.lookup import find_source, loading_error, model_config
from bonsai_core.model.storage.weight_check import check_weights
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.upstream import tied_pairs


def checked_config(source: str, trust_remote_code: bool, warn: Callable[[str], None]) -> Any:
    """The configuration of a model, made to fit its files, see `fit_to_files`."""
    return fit_to_files(model_config(source, trust_remote_code), source, trust_remote_code, warn)


def fit_to_files(config: Any, source: str, trust_remote_code: bool, warn: Callable[[str], None]) -> Any:
    """The configuration of a model whose files hold what it asks for, see `check_weights`.

    If it ties embeddings and the files have two that differ, the result is a copy that does not tie them, so that
    transformers loads both. Files that are quantised already are not checked here.

    Args:
        source: a directory or a Hugging Face id; its weights are downloaded if need be.
        warn: receives what the user should know about the files.

    Raises:
        BonsaiError: the files do not fit.
    """
    if getattr(config, "quantization_config", None):
        return config  # its files hold integers and scales under names of their own
    directory = weights_directory(source)
    model = empty_stock(config, source, trust_remote_code)
    files = WeightFiles(directory, model)
    if any(not files.same(one, other) for one, other in tied_pairs(model)):
        config = deepcopy(config)
        config.tie_word_embeddings = False
        model = empty_stock(config, source, trust_remote_code)
        files = WeightFiles(directory, model)
    check_weights(source, model, files, warn)
    return config


def empty_stock(config: Any, source: str, trust_remote_code: bool) -> Any:
    """The model of a configuration, on the meta device.

    Raises:
        BonsaiError: transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code or None)
    except Exception as error:  # from the model's own code: an impossible size raises anything
        raise loading_error(source, error) from error


def weights_directory(source: str, revision: str | None = None) -> Path:
    """Where the weights of a model are stored; those of a Hugging Face id are in the cache, downloaded if need be.

    Args:
        revision: the commit on the hub; None for the newest one.

    Raises:
        BonsaiError: the hub cannot be reached, or has no safetensors of this model.
    """
    directory = Path(find_source(source))
    if directory.is_dir():
        return directory
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        try:
            names = sorted({*read_index(Path(hf_hub_download(source, INDEX_NAME, revision=revision))).values()})
        except EntryNotFoundError:
            names = [FILE_NAME]
        directory = Path(snapshot_download(source, revision=revision, allow_patterns=[INDEX_NAME, *names]))
    except (OSError, ValueError) as error:
        raise loading_error(source, error) from error
    if not has_weights(directory):
        raise BonsaiError(
            f"{source} has no model.safetensors on the hub, or in the cache without a network. Weights in pickle files "
            f"(*.bin) are refused, because they can run any code when they are read. Convert them in a place you "
            f"trust: load the model there with transformers, call save_pretrained, and give the directory."
        )
    return directory


def model_directory(source: str, revision: str | None = None) -> Path:
    """Where a model is stored with all that belongs to it: configuration, weights, tokenizer and code of its own.

    Args:
        source: a directory, a Hugging Face id or ``demo``; what is on the hub is downloaded if need be.
        revision: the commit on the hub; None for the newest one.

    Raises:
        BonsaiError: there is no such model.
    """
    source = find_source(source)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source, revision=revision, allow_patterns=[CONFIG, GENERATION, *TOKENIZER_FILES, "*.py"])
    except (OSError, ValueError) as error:
        raise loading_error(f"{source}{f' at {revision}' if revision else ''}", error) from error
    return weights_directory(source, revision)
