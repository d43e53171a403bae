"""A directory that one process at a time works in, with a configuration, a journal, a checkpoint and a report."""

from __future__ import annotations

import errno
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel
from safetensors import SafetensorError

from bonsai_core.errors import BonsaiError
from bonsai_core.events import Event, Journaled
from bonsai_core.rundir.files import held, partial_of, refuse_other_than, write_atomically
from bonsai_core.rundir.journal import Journal
from bonsai_core.rundir.names import Names
from bonsai_core.rundir.report_schema import read_report
from bonsai_core.settings.common import CommonSettings
from bonsai_core.settings.names import checked_name
from bonsai_core.settings.recipe_files import read_recipe

LOCK_NAME = ".lock"
COMMON_FILES = (
    r"\.lock",
    r"journal\.sqlite(-wal|-shm|-journal)?",
    r"report\.(json|html)(\.partial)?",
    r"(exports|pushed)\.json(\.partial)?",
)
CHECKPOINT_TEMPORARIES = (r"\.model\.partial", r"\.model\.previous", r"model/README\.md\.partial")
Config = TypeVar("Config", bound=CommonSettings)


class JournaledDirectory(ABC):
    """The files of a run or an adaptation.

    What `NAMES` lists is ours, and may not be a link; anything else in the directory is left alone. The directory
    itself may be a link.
    """

    CONFIG_NAME: ClassVar[str]
    REPORT: ClassVar[type[BaseModel]]
    NAMES: ClassVar[Names]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / self.CONFIG_NAME
        self.journal_path = path / "journal.sqlite"
        self.model_path = path / "model"
        self.report_path = path / "report.json"
        self.page_path = path / "report.html"
        self.scratch_path = path / "scratch.partial"

    @abstractmethod
    def config(self) -> CommonSettings:
        """The resolved configuration, with `out` set to where it is stored now."""

    @contextmanager
    def begin(self, config: CommonSettings, observe: Callable[[Event], None]) -> Iterator[Journal]:
        """The journal of a new run. The directory is locked as by `lock`, before anything is written.

        Args:
            config: is written beside the journal.
            observe: receives `Journaled` after each event of the journal.

        Raises:
            BonsaiError: the directory cannot be made, holds something already, or another process has it.
        """
        self.refuse_occupied()
        with self.making():
            self.path.mkdir(parents=True, exist_ok=True)
        with self.lock():
            self.refuse_occupied()  # by what another process wrote before it released the directory
            with self.making():
                write_atomically(self.config_path, config.to_yaml().encode())
            with self._journal(observe) as journal:
                yield journal

    @contextmanager
    def reopen(self, observe: Callable[[Event], None]) -> Iterator[Journal]:
        """The journal of a run that was begun earlier; as `begin` otherwise.

        Raises:
            BonsaiError: another process has the directory, or the journal cannot be read.
        """
        with self.lock(), self._journal(observe) as journal:
            yield journal

    @classmethod
    def open(cls, path: Path) -> Self:
        """An existing run directory.

        Raises:
            BonsaiError: there is no run in it, or something of the run's is a link, or not what it should be.
        """
        directory = cls(Path(checked_name(str(path), "run directory")))
        cls.NAMES.refuse_links(path)
        if not directory.config_path.is_file():
            near = sorted(config.parent.name for config in path.parent.glob(f"*/{cls.CONFIG_NAME}"))
            listing = f" Runs beside it: {', '.join(near)}." if near else ""
            raise BonsaiError(f"{path} holds no run: there is no {cls.CONFIG_NAME} in it.{listing}")
        return directory

    def refuse_occupied(self) -> None:
        """Check that a new run may start here.

        Raises:
            BonsaiError: another run or other files are here, or nothing can be written here.
        """
        self.NAMES.refuse_links(self.path)
        if self.config_path.exists():
            raise BonsaiError(
                f"{self.path} already holds a run. Continue it with: bonsai resume {self.path}; "
                f"or choose another --out."
            )
        # A run killed before it had its configuration leaves nothing else, and cannot be resumed.
        debris = {LOCK_NAME, partial_of(self.config_path).name}
        if self.path.exists() and (not self.path.is_dir() or any(f.name not in debris for f in self.path.iterdir())):
            raise BonsaiError(f"{self.path} exists and is not an empty directory; choose another --out.")
        existing = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            why = os.strerror(errno.EACCES if existing.is_dir() else errno.ENOTDIR)
            raise BonsaiError(f"Cannot make the run directory {self.path}: {why}: {existing}. Choose another --out.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory for this process; the operating system unlocks it when the process dies.

        Raises:
            BonsaiError: another process has locked it.
        """
        taken = (
            f"Another process is working on {self.path}. Wait for it, or end it and then: bonsai resume {self.path}; "
            f"a new run needs another --out."
        )
        with ExitStack() as holding:
            with self.writing(f"to {self.path}"):
                holding.enter_context(held(self.path / LOCK_NAME, taken))
            yield

    def is_locked(self) -> bool | None:
        """Whether a process is working on it, asked by locking it for a moment; None if it may not be locked."""
        lock = self.path / LOCK_NAME
        try:
            if not lock.exists():
                return False
            with held(lock, ""):
                return False
        except BonsaiError:
            return True
        except OSError:  # such as a directory that may only be read
            return None

    def last_change(self) -> float:
        """When the journal was last written, in seconds since 1970; when the configuration was, if there is none."""
        changed = [self.config_path.stat().st_mtime]
        for path in self.path.glob(f"{self.journal_path.name}*"):
            with suppress(FileNotFoundError):  # the process that works on it has just closed it
                changed += [] if path.name.endswith("-shm") else [path.stat().st_mtime]
        return max(changed)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Turn the errors of a full or read-only disk into a message that says how to go on.

        Raises:
            BonsaiError: `what` could not be written.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise BonsaiError(
                f"Cannot write {what}: {getattr(error, 'strerror', None) or error}. Nothing measured so far is lost; "
                f"make room or fix the permissions, then: bonsai resume {self.path}"
            ) from error

    def array_path(self, round_number: int, name: str) -> Path:
        """The file of some of a round's arrays."""
        return self.path / f"round-{round_number:03d}" / f"{name}.npz"

    def tensor_path(self, round_number: int, name: str) -> Path:
        """The folder of some of a round's tensors."""
        return self.path / f"round-{round_number:03d}" / name

    def read_report(self) -> Mapping[str, Any]:
        """The contents of report.json.

        Raises:
            FileNotFoundError: there is none yet.
            BonsaiError: it is damaged, or not a file.
        """
        refuse_other_than("file", self.report_path)
        return read_report(self.report_path, self.REPORT)

    def finished_report(self) -> Mapping[str, Any]:
        """The same of what has to be finished.

        Raises:
            BonsaiError: it is not finished, or its report is damaged.
        """
        try:
            return self.read_report()
        except FileNotFoundError:
            raise BonsaiError(
                f"{self.path} is not finished. If a process works on it, watch it with: bonsai watch {self.path}; "
                f"else continue it with: bonsai resume {self.path}"
            ) from None

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write report.json atomically."""
        with self.writing(str(self.report_path)):
            write_atomically(self.report_path, (json.dumps(report, indent=2) + "\n").encode())

    def remove_temporaries(self) -> None:
        """Remove what a killed process of this run left half-written."""
        self.NAMES.remove_temporaries(self.path)

    def _read_config(self, schema: type[Config]) -> Config:
        values = read_recipe(self.config_path)
        return schema.from_mapping({**values, "out": str(self.path)}, str(self.config_path))

    @contextmanager
    def _journal(self, observe: Callable[[Event], None]) -> Iterator[Journal]:
        journal = Journal(self.journal_path, on_append=lambda key, count: observe(Journaled(key, count)))
        with closing(journal):
            yield journal

    @contextmanager
    def making(self) -> Iterator[None]:
        """Turn the errors of making the directory into a message.

        Raises:
            BonsaiError: it cannot be made.
        """
        try:
            yield
        except OSError as error:
            raise BonsaiError(f"Cannot make the run directory {self.path}: {error.strerror}.") from error
