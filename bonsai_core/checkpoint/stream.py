"""Writes a checkpoint from the parent's files, tensor by tensor: the model is never in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bonsai_core.checkpoint.parent import ParentFiles
from bonsai_core.checkpoint.save import checkpoint_directory
from bonsai_core.checkpoint.weights import FILE_NAME, INDEX_NAME
from bonsai_core.errors import BonsaiError
from bonsai_core.upstream import as_stored, save_own_code

SHARD_BYTES = 2_000_000_000


def save_streamed(
    model: Any,
    tokenizer: Any,
    directory: Path,
    provenance: Mapping[str, object],
    tensor_of: Callable[[str], Tensor | None],
    parent: ParentFiles | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Save a model that has no memory of its own, shard by shard; at most one shard is held.

    Args:
        model: as `empty_model` makes it.
        tokenizer, directory, provenance, parent: as for `save_checkpoint`.
        tensor_of: the tensor of a name in the model; None where there is none.
        shard_bytes: maximum size of a file, unless a single tensor is larger.

    Raises:
        BonsaiError: a tensor is missing, or does not have the model's shape.
    """
    with checkpoint_directory(directory, model, tokenizer, provenance, parent) as partial:
        _write_model(model, partial, tensor_of, shard_bytes)


def _write_model(model: Any, directory: Path, tensor_of: Callable[[str], Tensor | None], shard_bytes: int) -> None:
    if hasattr(model, "save_code"):
        model.save_code(directory)
    else:
        save_own_code(model, directory, model.config)
    shard: dict[str, Tensor] = {}
    shards: list[Path] = []
    weight_map: dict[str, int] = {}
    size = total = 0
    saved = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for in_model, parameter in (dict(model.named_parameters()) | buffers).items():
        for name, tensor in as_stored(model, in_model, _checked(in_model, tensor_of(in_model), parameter.shape)):
            if shard and size + tensor.nbytes > shard_bytes:
                shards.append(_write(shard, directory, len(shards)))
                shard, size = {}, 0
            # A view would keep the whole tensor in memory.
            part = tensor.untyped_storage().nbytes() > tensor.nbytes
            shard[name] = tensor.clone(memory_format=torch.contiguous_format) if part else tensor.contiguous()
            weight_map[name] = len(shards)
            size, total = size + tensor.nbytes, total + tensor.nbytes
    shards.append(_write(shard, directory, len(shards)))
    _name(shards, weight_map, total, directory)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)


def _checked(name: str, tensor: Tensor | None, shape: torch.Size) -> Tensor:
    if tensor is None or tensor.shape != shape:
        stored = "nothing" if tensor is None else f"{tuple(tensor.shape)}"
        raise BonsaiError(f"The parent's files have {stored} for {name}, which is {tuple(shape)} here.")
    return tensor


def _write(shard: dict[str, Tensor], directory: Path, number: int) -> Path:
    path = directory / f"shard-{number}.safetensors"
    save_file(shard, path, metadata={"format": "pt"})
    return path


def _name(shards: list[Path], weight_map: dict[str, int], total: int, directory: Path) -> None:
    """Rename the shards as transformers expects, and write their index if there are several."""
    if len(shards) == 1:
        shards[0].replace(directory / FILE_NAME)
        return
    names = [f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))]
    for shard, name in zip(shards, names, strict=True):
        shard.replace(directory / name)
    files = {name: names[number] for name, number in weight_map.items()}
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
