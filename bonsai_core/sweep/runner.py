"""Does what is missing of a sweep: reads finished runs, resumes started ones, starts the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from bonsai_core.engine import SharedMeasurements, resume, run
from bonsai_core.engine.adaptation import FOLDER
from bonsai_core.engine.setup import with_absolute_paths
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.model.pages import free_cache
from bonsai_core.registry import Registry
from bonsai_core.rundir import RunDirectory
from bonsai_core.sweep.expand import SweepRun


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        report: the contents of its report.json; None where it failed.
        adapted: those of the adaptation's that followed it, if one did.
        error: why it failed.
        found: whether it was finished already.
    """

    run: SweepRun
    report: Mapping[str, Any] | None = None
    adapted: Mapping[str, Any] | None = None
    error: str | None = None
    found: bool = False

    @property
    def seconds(self) -> float:
        """Time that the run's stages took, over all processes that worked on it."""
        return float(sum(sum(found["seconds"].values()) for found in (self.report, self.adapted) if found))


class Listener(Protocol):
    """Is told how a sweep goes on; numbers start at 1."""

    def started(self, number: int, run: SweepRun) -> None:
        """A run is started or resumed."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A run has its report, or failed."""


def run_sweep(
    runs: Sequence[SweepRun], directory: Path, registry: Registry, listener: Listener, *, keep_models: bool
) -> list[Outcome]:
    """All runs, one after the other; one that fails stops none of the others.

    Raises:
        BonsaiError: a directory holds a run with other settings, or another process works on the sweep.
    """
    with _lock(directory):
        for each in runs:
            _refuse_other_settings(each, directory)
        shared = SharedMeasurements(directory / "shared")
        outcomes = []
        for number, each in enumerate(runs, 1):
            outcome = _finished(each, directory)
            if outcome is None:
                listener.started(number, each)
                outcome = _computed(each, directory, registry, shared)
                free_cache()  # the next model needs the memory
            if outcome.report and not keep_models:
                for path in (directory / each.name, directory / each.name / FOLDER):
                    shutil.rmtree(RunDirectory(path).model_path, ignore_errors=True)
            listener.finished(number, outcome)
            outcomes.append(outcome)
        return outcomes


def state(run: SweepRun, directory: Path) -> str:
    """How far a run is: ``finished``, ``started`` or ``to do``."""
    files = RunDirectory(directory / run.name)
    if _finished(run, directory) is not None:
        return "finished"
    return "started" if files.config_path.is_file() else "to do"


def _computed(run_: SweepRun, directory: Path, registry: Registry, shared: SharedMeasurements) -> Outcome:
    path = directory / run_.name
    try:
        if RunDirectory(path).config_path.is_file():
            result = resume(path, registry=registry, shared=shared)
        else:
            result = run(run_.config.model_copy(update={"out": path}), registry=registry, shared=shared)
        return Outcome(run_, result.report, result.adapted.report if result.adapted else None)
    except BonsaiError as error:
        return Outcome(run_, error=str(error))


def _finished(run_: SweepRun, directory: Path) -> Outcome | None:
    """What a finished run found; None where there is no report, or one cut short, which a resume writes again."""
    path = directory / run_.name
    try:
        return Outcome(run_, _report(path), _report(path / FOLDER) if run_.config.adapt else None, found=True)
    except (FileNotFoundError, ValueError):
        return None


def _report(path: Path) -> Mapping[str, Any]:
    """What a run, or an adaptation, found."""
    found: Mapping[str, Any] = json.loads(RunDirectory(path).report_path.read_text(encoding="utf-8"))
    return found


def _refuse_other_settings(run_: SweepRun, directory: Path) -> None:
    files = RunDirectory(directory / run_.name)
    if not files.config_path.is_file():
        return
    before, now = files.config().decisive(), with_absolute_paths(run_.config).decisive()
    changes = [f"{name} was {shown(before[name])}, is {shown(now[name])}" for name in now if before[name] != now[name]]
    if changes:
        raise BonsaiError(
            f"{files.path} holds a run with other settings than the sweep asks for ({run_}): {'; '.join(changes)}. "
            f"Put the settings back, delete that directory to have it run again, or choose another --out."
        )


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    file = FileLock(directory / ".lock", timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file.acquire()
    except Timeout:
        raise BonsaiError(
            f"Another process is working on the sweep in {directory}. Wait for it, or end it and run this again; "
            f"or choose another --out."
        ) from None
    except OSError as error:
        raise BonsaiError(f"Cannot write to {directory}: {error.strerror or error}. Choose another --out.") from error
    try:
        yield
    finally:
        file.release()
