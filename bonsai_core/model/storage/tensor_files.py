"""Tensors too large to be held in memory together: a folder with one safetensors file per name."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bonsai_core.contracts import Repair
from bonsai_core.errors import DamagedError


class TensorFiles:
    """A folder of tensors by name.

    Args:
        folder: made when something is saved.
        writing: turns what a full disk raises into a message; receives what is written.
    """

    def __init__(self, folder: Path, writing: Callable[[str], AbstractContextManager[None]]) -> None:
        self.folder = folder
        self._writing = writing

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def save(self, name: str, **tensors: Tensor) -> None:
        """Write tensors under a name."""
        with self._writing(str(self._path(name))):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, self._path(name))

    def save_repair(self, name: str, repair: Repair) -> None:
        """Write a repair."""
        given = {"weight": repair.weight, "bias": repair.bias}
        self.save(name, **{key: tensor for key, tensor in given.items() if tensor is not None})

    def load_repair(self, name: str, device: torch.device) -> Repair:
        """A repair as it was written, on a device.

        Raises:
            DamagedError: the file is not what was saved.
        """
        return Repair(**self.load(name, device))

    def load(self, name: str, device: torch.device) -> Mapping[str, Tensor]:
        """The tensors of a name, on a device.

        Raises:
            DamagedError: the file is not what was saved.
        """
        try:
            return {key: tensor.to(device) for key, tensor in load_file(self._path(name)).items()}
        except SafetensorError as error:
            raise DamagedError(f"{self._path(name)} is damaged ({error}). Delete it, then resume the run.") from None

    def sha256(self) -> str:
        """Tells two folders' contents apart."""
        total = hashlib.sha256()
        for path in sorted(filter(Path.is_file, self.folder.glob("*.safetensors"))):
            total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    def inside(self, name: str) -> TensorFiles:
        """A folder in this one."""
        return TensorFiles(self.folder / name, self._writing)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
