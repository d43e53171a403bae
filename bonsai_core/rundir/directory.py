"""Names and atomic writes inside a run directory, and the lock that keeps a second process out."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError

from bonsai_core.config import RunConfig, read_recipe
from bonsai_core.errors import BonsaiError
from bonsai_core.names import checked_name
from bonsai_core.rundir.journal import Journal

LOCK_NAME = ".lock"


class _Settings(Protocol):
    """A configuration that can be written down."""

    def to_yaml(self) -> str:
        """The configuration as a recipe that reproduces it."""


class RunDirectory:
    """One run's files. See the module `bonsai_core.rundir` for what they are.

    Args:
        path: the directory.
    """

    CONFIG_NAME = "config.yaml"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / self.CONFIG_NAME
        self.journal_path = path / "journal.sqlite"
        self.model_path = path / "model"
        self.report_path = path / "report.json"
        self.scratch_path = path / "scratch.partial"

    @classmethod
    def create(cls, path: Path, config: _Settings) -> Self:
        """A fresh run directory with its configuration.

        Raises:
            BonsaiError: it cannot be made, or holds something already.
        """
        directory = cls(path)
        directory.refuse_occupied()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _write(directory.config_path, config.to_yaml().encode())
        except OSError as error:
            raise BonsaiError(f"Cannot make the run directory {path}: {error.strerror}.") from error
        return directory

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run directory.

        Raises:
            BonsaiError: there is no run in it.
        """
        directory = cls(Path(checked_name(str(path), "run directory")))
        if not directory.config_path.is_file():
            near = (
                sorted(p.parent.name for p in path.parent.glob(f"*/{cls.CONFIG_NAME}")) if path.parent.is_dir() else []
            )
            listing = f" Runs beside it: {', '.join(near)}." if near else ""
            raise BonsaiError(f"{path} holds no run: there is no {cls.CONFIG_NAME} in it.{listing}")
        return directory

    def refuse_occupied(self) -> None:
        """Check that a new run may start here.

        Raises:
            BonsaiError: another run or other files are here, or nothing can be written here.
        """
        if self.config_path.exists():
            raise BonsaiError(
                f"{self.path} already holds a run. Continue it with: bonsai resume {self.path}; "
                f"or choose another --out."
            )
        # A run killed while it wrote its configuration leaves nothing else, and cannot be resumed.
        debris = _partial(self.config_path)
        if self.path.exists() and (not self.path.is_dir() or any(file != debris for file in self.path.iterdir())):
            raise BonsaiError(f"{self.path} exists and is not an empty directory; choose another --out.")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            why = os.strerror(errno.EACCES if existing.is_dir() else errno.ENOTDIR)
            raise BonsaiError(f"Cannot make the run directory {self.path}: {why}: {existing}. Choose another --out.")

    def config(self) -> RunConfig:
        """The resolved configuration, with `out` set to where it lies now."""
        values = read_recipe(self.config_path)
        return RunConfig.from_mapping({**values, "out": str(self.path)}, str(self.config_path))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process; the operating system lets go of it when the process dies.

        Raises:
            BonsaiError: another process holds it.
        """
        file = FileLock(self.path / LOCK_NAME, timeout=0)
        with self.writing(f"to {self.path}"):
            try:
                file.acquire()
            except Timeout:
                raise BonsaiError(
                    f"Another process is working on {self.path}. Wait for it, or end it and then: "
                    f"bonsai resume {self.path}"
                ) from None
        try:
            yield
        finally:
            file.release()

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn what a full or unwritable disk raises into a message that says how to go on.

        Raises:
            BonsaiError: `what` could not be written.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise BonsaiError(
                f"Cannot write {what}: {getattr(error, 'strerror', None) or error}. Nothing measured so far is lost; "
                f"make room or mend the permissions, then: bonsai resume {self.path}"
            ) from error

    def journal(self, *, on_append: Callable[[str, int], None] | None = None) -> Journal:
        """The run's journal."""
        return Journal(self.journal_path, on_append=on_append)

    def save_arrays(self, round_number: int, name: str, **arrays: NDArray[Any]) -> str:
        """Write arrays of a round atomically and return their sha256, to be journaled."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the names as its own flags
        path = self.array_path(round_number, name)
        with self.writing(str(path)):
            path.parent.mkdir(exist_ok=True)
            _write(path, buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()

    def load_arrays(self, round_number: int, name: str, sha256: str) -> Mapping[str, NDArray[Any]]:
        """Arrays of a round.

        Raises:
            BonsaiError: the file is missing or is not what the journal says.
        """
        path = self.array_path(round_number, name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BonsaiError(f"Cannot read {path}: {error.strerror}. The run cannot be resumed without it.") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BonsaiError(f"{path} is not what the journal recorded; the run cannot be resumed with it.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)

    def array_path(self, round_number: int, name: str) -> Path:
        """Where a round's arrays lie."""
        return self.path / f"round-{round_number:03d}" / f"{name}.npz"

    def tensor_path(self, round_number: int, name: str) -> Path:
        """Where a folder of a round's tensors lies."""
        return self.path / f"round-{round_number:03d}" / name

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write report.json atomically."""
        with self.writing(str(self.report_path)):
            _write(self.report_path, (json.dumps(report, indent=2) + "\n").encode())

    def remove_temporaries(self) -> None:
        """Clear what a killed process left half-written; not where another one, with its own lock, may be at work."""
        others = [lock.parent for lock in self.path.rglob(LOCK_NAME) if lock.parent != self.path]
        for path in list(self.path.rglob("*.partial")):
            if not any(path.is_relative_to(other) for other in others):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_disk(path: Path, needed_bytes: int) -> None:
    """Refuse before the work starts if its result would not fit.

    Raises:
        BonsaiError: less is free than the run needs.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BonsaiError(
            f"Not enough room at {existing}: the run needs about {needed_bytes / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free. Make room, or choose another --out."
        )


def free_path(folder: Path, name: str) -> Path:
    """folder/name, without what file names should not have, and with a number behind it where that is taken."""
    base = folder / (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model")
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _write(path: Path, data: bytes) -> None:
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
