"""Measurements of the dense model that several runs have in common, computed once and kept in files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from bonsai_core.rundir.turns import turn

DIGEST = "sha256"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Cached:
    """Arrays that were computed once.

    Attributes:
        seconds: that computing them took.
        hit: whether another run did it.
        waited_s: seconds spent waiting until another run had done it.
    """

    arrays: Arrays
    seconds: float
    hit: bool
    waited_s: float


class MeasurementCache:
    """Arrays by what they were computed from, in files.

    Runs may share them at the same time, on one machine or, where they see the same files, on several: of those that
    want the same arrays, one computes them and the others wait.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def once(self, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Cached:
        """The arrays computed from `key`: everything that decides them, as plain data and arrays.

        Raises:
            BonsaiError: what was computed cannot be written.
        """
        text = json.dumps(key, sort_keys=True, default=lambda array: arrays_digest({"": array}))
        path = self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if (stored := _read(path)) is not None:
            return _hit(stored, 0.0)
        asked = time.perf_counter()
        with _turn(path):
            waited_s = time.perf_counter() - asked
            if (stored := _read(path)) is not None:
                return _hit(stored, waited_s)
            start = time.perf_counter()
            fresh = compute()
            seconds = time.perf_counter() - start
            _write(path, fresh, seconds)
        return Cached(fresh, seconds, False, waited_s)


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


def _hit(stored: dict[str, NDArray[Any]], waited_s: float) -> Cached:
    seconds = float(stored.pop("seconds")[0])
    return Cached(stored, seconds, True, waited_s)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """The turn to compute what is in a file; its folder is made."""
    with ExitStack() as holding:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            holding.enter_context(turn(path.with_suffix(".lock")))
        yield


def _write(path: Path, fresh: Arrays, seconds: float) -> None:
    """Write arrays and the time they took, under a name of this process's own until the file is whole."""
    arrays = {name: np.ascontiguousarray(array) for name, array in fresh.items()}
    own = path.with_name(f"{path.stem}-{socket.gethostname()}-{os.getpid()}.partial")
    with _writing(path):
        arrays["seconds"] = np.array([seconds])
        write_atomically(own, save(arrays, {DIGEST: arrays_digest(arrays)}))
        own.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise BonsaiError(
            f"Cannot write {path}: {getattr(error, 'strerror', None) or error}. Make room or fix the permissions, "
            f"then give the same command again."
        ) from error
