"""Stock checkpoints with wider MLPs that compute the same: channels of zeros, for types that come in blocks."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from bonsai_core import Checkpoint, MlpSite
from bonsai_plugins.exporters.files import read_config
from bonsai_plugins.exporters.gguf_files import copy_beside
from bonsai_plugins.exporters.gguf_layers import padded
from bonsai_plugins.exporters.weights import Weights


def padded_width(checkpoint: Checkpoint, pad_to: int) -> int | None:
    """The width that the MLPs of a stock checkpoint get; None if they stay as they are.

    Those of mixtures of experts stay, because their files name them in many ways.
    """
    family = checkpoint.family
    if family is None or family.experts is not None:
        return None
    width: int = getattr(checkpoint.config, family.mlp.width_field)
    return None if width % pad_to == 0 else -(-width // pad_to) * pad_to


def write_padded(checkpoint: Checkpoint, directory: Path, width: int) -> None:
    """Write a copy of a stock checkpoint whose MLPs have this many channels; see `padded_width`.

    Args:
        directory: an empty one.
    """
    assert checkpoint.family is not None
    mlp, weights = checkpoint.family.mlp, Weights(checkpoint.path)
    copy_beside(checkpoint.path, directory, read_config(checkpoint.path) | {mlp.width_field: width})
    for file in sorted({*weights.files.values()}):
        tensors = {name: weights.tensor(name) for name, where in weights.files.items() if where == file}
        wider = {name: _wider(name, tensor, mlp, width) for name, tensor in tensors.items()}
        save_file(wider, directory / file.name, metadata={"format": "pt"})


def _wider(name: str, tensor: Tensor, mlp: MlpSite, width: int) -> Tensor:
    module, _, kind = name.rpartition(".")
    if module.endswith(f".{mlp.path(mlp.output)}") and kind == "weight":
        return padded(tensor, 1, width)
    fused = sum(module.endswith(f".{mlp.path(linear)}") for linear in mlp.inputs)
    if not fused:
        return tensor
    parts = tensor.reshape(fused, tensor.shape[0] // fused, *tensor.shape[1:])
    return padded(parts, 1, width).flatten(0, 1)
