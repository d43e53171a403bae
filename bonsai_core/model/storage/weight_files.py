"""A checkpoint's weights where they are: read from disk one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bonsai_core.checkpoint.conversion import stored_tensors
from bonsai_core.checkpoint.weights import files_of_tensors
from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.fingerprint import FIRST_VALUES, weights_fingerprint
from bonsai_core.model.storage.tied import under_both_names


class WeightFiles:
    """The weights of a checkpoint by their names in the model, in full precision, whatever is made of them in memory.

    Args:
        directory: with model.safetensors in it, or several files and their index.
        model: the transformers model that they are loaded into.

    Raises:
        BonsaiError: the files or their index cannot be read. One that the index names and that is not there is found
            missing when it is first read.
    """

    def __init__(self, directory: Path, model: Any) -> None:
        self._file = files_of_tensors(directory)
        self._model = model
        self._stored = stored_tensors(model, self._file)
        under_both_names(model, self._stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        """The names in the model that the tensors in the files stand for; the model may not have all of them."""
        return iter(self._stored)

    def load(self, name: str) -> Tensor:
        """A weight by its name in the model, on the CPU, made as transformers makes it.

        Raises:
            BonsaiError: it cannot be read.
        """
        return self._stored[name].tensor(name, self._model, self._read)

    def same(self, one: str, other: str) -> bool:
        """Whether two weights that are to be one are so in the files: one is left out, or they are equal."""
        if one not in self or other not in self or self._stored[one] is self._stored[other]:
            return True
        return self.shape(one) == self.shape(other) and torch.equal(self.load(one), self.load(other))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a weight by its name in the model; None where it is not a tensor of the files as it is."""
        stored = self._stored[name]
        return self._shapes[stored.names()[0]] if stored.converter is None else None

    def num_elements(self, name: str) -> int | None:
        """Numbers in all tensors that a weight is made of; None where others are made of them too."""
        stored = self._stored[name]
        return None if stored.divided else sum(math.prod(self._shapes[on_disk]) for on_disk in stored.names())

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of the first weight."""
        return self._read(min(self._file)).dtype

    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in set(self._file.values()))

    def fingerprint(self) -> str:
        """That of all tensors in the files, by their names there; see `weights_fingerprint`."""
        weights = []
        for name, part in self._slices():
            shape = tuple(part.get_shape())
            row = part[:1] if shape else part[...]
            weights.append((name, shape, row.flatten()[:FIRST_VALUES].clone()))  # a row may be a whole matrix
        return weights_fingerprint(sorted(weights, key=itemgetter(0)))

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by their names on disk."""
        return {name: tuple(part.get_shape()) for name, part in self._slices()}

    def _slices(self) -> Iterator[tuple[str, Any]]:
        """(name on disk, its slice, of which nothing is read yet) of all tensors; each file is opened once."""
        names: dict[Path, list[str]] = {}
        for name, file in self._file.items():
            names.setdefault(file, []).append(name)
        for file, inside in names.items():
            with self._open(file) as opened:
                for name in inside:
                    yield name, opened.get_slice(name)

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
