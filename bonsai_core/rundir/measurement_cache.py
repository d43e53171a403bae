"""Measurements of the dense model that several runs have in common, computed once and kept in files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bonsai_core.contracts import Component
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.digests import arrays_digest
from bonsai_core.rundir.files import write_atomically

DIGEST = "sha256"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Cached:
    """Arrays that were computed once, the time that this took, and whether another run did it (`hit`)."""

    arrays: Arrays
    seconds: float
    hit: bool


class MeasurementCache:
    """Arrays by what they were computed from, in files; runs that share them must not run at the same time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def once(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Cached:
        """The arrays computed from `key`: everything that decides them, as plain data and arrays.

        Raises:
            BonsaiError: what was computed cannot be written.
        """
        text = json.dumps(key, sort_keys=True, default=lambda array: arrays_digest({"": array}))
        path = self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        stored = _read(path)
        if stored is not None:
            return Cached(stored, float(stored.pop("seconds")[0]), True)
        start = time.perf_counter()
        fresh = compute()
        seconds = time.perf_counter() - start
        arrays = {name: np.ascontiguousarray(array) for name, array in fresh.items()}
        try:
            arrays["seconds"] = np.array([seconds])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, save(arrays, {DIGEST: arrays_digest(arrays)}))
        except (OSError, SafetensorError) as error:
            raise BonsaiError(
                f"Cannot write {path}: {getattr(error, 'strerror', None) or error}. Make room or fix the permissions, "
                f"then give the same command again."
            ) from error
        return Cached(fresh, seconds, False)


def code_of(component: Component) -> str:
    """A digest of a plugin's code, so that a later version does not get what an earlier one measured.

    It covers the plugin's own module, and those of its package that this one imports something from.
    """
    module = inspect.getmodule(type(component))
    package = getattr(module, "__name__", "").split(".")[0]
    used = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    names = {name for name in used if name.split(".")[0] == package} | {getattr(module, "__name__", "")}
    try:
        source = "".join(inspect.getsource(sys.modules[name]) for name in sorted(names))
    except (OSError, TypeError, KeyError):
        return os.urandom(16).hex()  # typed in by hand: nothing to compare, so nothing is shared
    return hashlib.sha256(source.encode()).hexdigest()


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays of a file; None where there is none, or one that is not what was written."""
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
            whole = (file.metadata() or {}).get(DIGEST) == arrays_digest(arrays)
    except (FileNotFoundError, SafetensorError):
        return None
    return arrays if whole else None
