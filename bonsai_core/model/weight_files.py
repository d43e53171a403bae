"""A checkpoint's weights where they lie: read from disk one at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bonsai_core.checkpoint.conversion import origins
from bonsai_core.errors import BonsaiError

FILE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
FIRST_VALUES = 256


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype
    first: Tensor


class WeightFiles:
    """The weights of a checkpoint by their names in the model, in full precision, whatever is made of them in memory.

    Args:
        directory: with model.safetensors in it, or several files and their index.
        model: the transformers model that they are loaded into.

    Raises:
        BonsaiError: the files cannot be read, or the index names one that is not there.
    """

    def __init__(self, directory: Path, model: Any) -> None:
        index = directory / INDEX_NAME
        try:
            if index.is_file() and not (directory / FILE_NAME).is_file():
                named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                wrong = sorted({file for file in named.values() if Path(file).name != file})
                if wrong:
                    raise BonsaiError(f"{index} names files outside of its directory: {', '.join(wrong[:3])}.")
                self._file = {name: directory / file for name, file in named.items()}
            else:
                file = directory / FILE_NAME
                with safe_open(file, "pt") as opened:
                    self._file = dict.fromkeys(opened.keys(), file)
        except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
            raise BonsaiError(f"The weights in {directory} cannot be read: {error}") from error
        self._model = model
        self._origins = origins(model, self._file)

    def __contains__(self, name: str) -> bool:
        return name in self._origins

    def load(self, name: str) -> Tensor:
        """A weight by its name in the model, on the CPU, made as transformers makes it.

        Raises:
            BonsaiError: it cannot be read.
        """
        return self._origins[name].tensor(name, self._model, self._read)

    def num_elements(self, name: str) -> int:
        """Numbers in all tensors that a weight is made of."""
        return sum(math.prod(self._headers[on_disk].shape) for on_disk in self._origins[name].names())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first weight."""
        return next(iter(self._headers.values())).dtype

    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in set(self._file.values()))

    def fingerprint(self) -> str:
        """sha256 over names, shapes, types and the first values of all tensors: tells two parents apart, cheaply."""
        digest = hashlib.sha256()
        for name, header in self._headers.items():
            digest.update(f"{name} {header.shape} {header.dtype}".encode() + header.first.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _headers(self) -> dict[str, _Header]:
        """Of all tensors, by their names on disk, in order; each file is opened once."""
        names: dict[Path, list[str]] = {}
        for name, file in self._file.items():
            names.setdefault(file, []).append(name)
        found = {}
        for file, inside in names.items():
            with self._open(file) as opened:
                for name in inside:
                    part = opened.get_slice(name)
                    shape = tuple(part.get_shape())
                    first = part[:1] if shape else opened.get_tensor(name)
                    found[name] = _Header(shape, first.dtype, first.flatten()[:FIRST_VALUES].float().clone())
        return dict(sorted(found.items()))

    def _read(self, on_disk: str) -> Tensor:
        """A tensor by its name on disk."""
        with self._open(self._file[on_disk]) as opened:
            tensor: Tensor = opened.get_tensor(on_disk)
        return tensor

    @contextmanager
    def _open(self, file: Path) -> Iterator[Any]:
        try:
            with safe_open(file, "pt") as opened:
                yield opened
        except (OSError, SafetensorError) as error:
            raise BonsaiError(f"The weights in {file} cannot be read: {error}") from error
