"""Digests of what is stored under names: tensors of a state, arrays of a measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def digest_of(contents: Iterable[tuple[str, memoryview]], *about: int) -> str:
    """sha256 of bytes by name, in whatever order, and of the numbers `about`."""
    each = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in contents)
    return hashlib.sha256(json.dumps([*about, each]).encode()).hexdigest()


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of arrays by name, with their types and shapes."""
    named = ((f"{name} {array.dtype} {array.shape}", array) for name, array in arrays.items())
    return digest_of((name, np.ascontiguousarray(array).data) for name, array in named)
