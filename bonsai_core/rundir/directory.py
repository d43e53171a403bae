"""Names and atomic writes inside a run directory, and the lock that keeps a second process out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from bonsai_core.config import RunConfig, read_recipe
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.journal import Journal


class RunDirectory:
    """One run's files. See the module `bonsai_core.rundir` for what they are.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.journal_path = path / "journal.sqlite"
        self.model_path = path / "model"
        self.report_path = path / "report.json"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDirectory:
        """A fresh run directory with its configuration.

        Raises:
            BonsaiError: it cannot be made, or holds something already.
        """
        directory = cls(path)
        directory.refuse_occupied()
        try:
            path.mkdir(parents=True, exist_ok=True)
            directory.write_text(directory.config_path, config.to_yaml())
        except OSError as error:
            raise BonsaiError(f"Cannot make the run directory {path}: {error.strerror}.") from error
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run directory.

        Raises:
            BonsaiError: there is no run in it.
        """
        directory = cls(path)
        if not directory.config_path.is_file():
            near = sorted(p.parent.name for p in path.parent.glob("*/config.yaml")) if path.parent.is_dir() else []
            listing = f" Runs beside it: {', '.join(near)}." if near else ""
            raise BonsaiError(f"{path} holds no run: there is no config.yaml in it.{listing}")
        return directory

    def refuse_occupied(self) -> None:
        """Check that a new run may start here.

        Raises:
            BonsaiError: another run or other files are here.
        """
        if self.config_path.exists():
            raise BonsaiError(
                f"{self.path} already holds a run. Continue it with: bonsai resume {self.path}; "
                f"or choose another --out."
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise BonsaiError(f"{self.path} exists and is not an empty directory; choose another --out.")

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
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise BonsaiError(
                f"Another process is working on {self.path}. Wait for it, or end it and then: bonsai resume {self.path}"
            ) from None

    def journal(self, *, create: bool, on_append: Callable[[str, int], None] | None = None) -> Journal:
        """The run's journal."""
        return Journal(self.journal_path, create=create, on_append=on_append)

    def save_arrays(self, round_number: int, name: str, **arrays: NDArray[Any]) -> str:
        """Write arrays of a round atomically and return their sha256, to be journaled."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the names as its own flags
        path = self.array_path(round_number, name)
        path.parent.mkdir(exist_ok=True)
        self._write(path, buffer.getvalue())
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

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write report.json atomically."""
        self.write_text(self.report_path, json.dumps(report, indent=2) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file atomically."""
        self._write(path, text.encode())

    def remove_temporaries(self) -> None:
        """Clear what a killed process left half-written."""
        for path in self.path.rglob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _write(self, path: Path, data: bytes) -> None:
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
