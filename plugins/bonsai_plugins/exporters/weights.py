"""The tensors of a checkpoint, one at a time, and their sizes without reading them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from bonsai_core import files_of_tensors


class Weights:
    """The weights of a checkpoint's directory.

    Attributes:
        files: the file of every tensor by its name.

    Raises:
        BonsaiError: they cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self.files = files_of_tensors(directory)

    def tensor(self, name: str) -> Tensor:
        """A tensor as it is stored."""
        with safe_open(self.files[name], "pt") as opened:
            read: Tensor = opened.get_tensor(name)
        return read

    def size(self, name: str) -> Tensor:
        """A tensor of the same shape on the meta device: what can be said without reading it."""
        with safe_open(self.files[name], "pt") as opened:
            return torch.empty(opened.get_slice(name).get_shape(), device="meta")

    def dtypes(self) -> Collection[str]:
        """The types that its matrices are stored in, as safetensors spells them: ``BF16``."""
        found = set()
        for file in {*self.files.values()}:
            with safe_open(file, "pt") as opened:
                slices = [opened.get_slice(name) for name in opened.keys()]  # noqa: SIM118
                found |= {part.get_dtype() for part in slices if len(part.get_shape()) > 1}
        return found
