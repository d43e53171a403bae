"""Completes a sweep: reads finished runs, resumes started ones, starts the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.engine import MeasurementCache, run
from bonsai_core.engine.lifecycle import resume_run
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.errors import BonsaiError, DamagedError, shown
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import Names, RunDirectory, held
from bonsai_core.rundir.files import refuse_other_than
from bonsai_core.sweep.expand import SweepRun

LOCK_NAME = ".lock"
NAMES = Names(files=(r"\.lock", r"results\.(json|md|html)(\.partial)?"), folders=("shared", "plots"))
"""What a sweep writes beside its runs."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        report: the contents of its report.json; None where it failed.
        adapted: those of the adaptation's that followed it, if one did.
        error: why it failed.
        finished_before: whether it was finished already.
    """

    run: SweepRun
    report: Mapping[str, Any] | None = None
    adapted: Mapping[str, Any] | None = None
    error: str | None = None
    finished_before: bool = False

    @property
    def seconds(self) -> float:
        """Time that the run's stages took, over all processes that worked on it."""
        return float(sum(sum(report["seconds"].values()) for report in (self.report, self.adapted) if report))


class Listener(Protocol):
    """Is notified of a sweep's progress; numbers start at 1."""

    def started(self, number: int, run: SweepRun) -> None:
        """A run is started or resumed."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A run has its report, or failed."""


def run_sweep(
    runs: Sequence[SweepRun],
    directory: Path,
    registry: Registry,
    listener: Listener,
    *,
    keep_models: bool,
    conclude: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """All runs, one after the other; one that fails does not stop the others.

    Args:
        conclude: receives the outcomes while no other process can work on the sweep.

    Raises:
        BonsaiError: a directory holds a run with other settings, or another process works on the sweep.
    """
    with _lock(directory):
        for each in runs:
            _refuse_other_settings(each, directory)
        cache = MeasurementCache(directory / "shared")
        outcomes = []
        for number, each in enumerate(runs, 1):
            outcome = _finished(each, directory)
            if outcome is None:
                listener.started(number, each)
                outcome = _computed(each, directory, registry, cache)
                free_cache()  # the next model needs the memory
            if outcome.report and not keep_models:
                files = RunDirectory(directory / each.name)
                for path in (files.model_path, AdaptDirectory(files.adapted_path).model_path):
                    shutil.rmtree(path, ignore_errors=True)
            listener.finished(number, outcome)
            outcomes.append(outcome)
        conclude(outcomes)
        return outcomes


def state(run: SweepRun, directory: Path) -> str:
    """How far a run is: ``finished``, ``started`` or ``to do``."""
    files = RunDirectory(directory / run.name)
    if _finished(run, directory) is not None:
        return "finished"
    return "started" if files.config_path.is_file() else "to do"


def _computed(run_: SweepRun, directory: Path, registry: Registry, cache: MeasurementCache) -> Outcome:
    path = directory / run_.name
    try:
        if RunDirectory(path).config_path.is_file():
            # The settings are those of the sweep's file, see `_refuse_other_settings`; so are trust and tracker.
            result = resume_run(
                path, trust_remote_code=True, tracker=run_.config.tracker, registry=registry, cache=cache
            )
        else:
            result = run(run_.config.model_copy(update={"out": path}), registry=registry, cache=cache)
        return Outcome(run_, result.report, result.adapted.report if result.adapted else None)
    except BonsaiError as error:
        return Outcome(run_, error=str(error))


def _finished(run_: SweepRun, directory: Path) -> Outcome | None:
    """A finished run's reports; None if there are none, or damaged ones, which a resume writes again."""
    files = RunDirectory(directory / run_.name)
    files.NAMES.refuse_links(files.path)
    try:
        adapted = AdaptDirectory(files.adapted_path).read_report() if run_.config.adapt else None
        return Outcome(run_, files.read_report(), adapted, finished_before=True)
    except (FileNotFoundError, DamagedError):
        return None


def _refuse_other_settings(run_: SweepRun, directory: Path) -> None:
    path = directory / run_.name
    refuse_other_than("folder", path)
    if not RunDirectory(path).config_path.is_file():
        return
    files = RunDirectory.open(path)
    before, now = files.config().decisive(), suited_to_machine(run_.config).decisive()
    changes = [f"{name} was {shown(before[name])}, is {shown(now[name])}" for name in now if before[name] != now[name]]
    if changes:
        raise BonsaiError(
            f"{files.path} holds a run with other settings than the sweep asks for ({run_}): {'; '.join(changes)}. "
            f"Put the settings back, delete that directory to have it run again, or choose another --out."
        )


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    taken = (
        f"Another process is working on the sweep in {directory}. Wait for it, or end it and run this again; "
        f"or choose another --out."
    )
    with ExitStack() as holding:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            NAMES.refuse_links(directory)
            holding.enter_context(held(directory / LOCK_NAME, taken))
        except OSError as error:
            raise BonsaiError(
                f"Cannot write to {directory}: {error.strerror or error}. Choose another --out."
            ) from error
        yield
