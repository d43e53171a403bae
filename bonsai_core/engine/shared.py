"""Measurements of the dense model that several runs have in common, computed once and kept in files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Shared:
    """Arrays that were computed once.

    Attributes:
        seconds: time it took, in whichever run it was.
        found: whether another run had computed them.
    """

    arrays: Arrays
    seconds: float
    found: bool


class SharedMeasurements:
    """Arrays by what they were computed from; runs that share them must not run at the same time.

    Args:
        directory: where the files go; made at the first one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def once(self, origin: Mapping[str, Any], compute: Callable[[], Arrays]) -> Shared:
        """The arrays computed from `origin`.

        Args:
            origin: everything that decides the result, as plain data; arrays in it count by their content.
        """
        text = json.dumps(origin, sort_keys=True, default=_digest)
        path = self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        known = path.is_file()
        if not known:
            start = time.perf_counter()
            arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
            seconds = np.array([time.perf_counter() - start])
            self._directory.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file({**arrays, "seconds": seconds}, partial)
            partial.replace(path)
        arrays_and_time = load_file(path)
        return Shared(arrays_and_time, float(arrays_and_time.pop("seconds")[0]), known)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
