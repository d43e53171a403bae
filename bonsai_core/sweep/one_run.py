"""One run of a sweep, in whatever process: finished before, resumed or started, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.engine import MeasurementCache, run
from bonsai_core.engine.lifecycle import resume_run
from bonsai_core.errors import BonsaiError, DamagedError
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.hardware import hardware

SHARED_NAME = "shared"
RELEASE_S = 180.0
"""A file server keeps the locks of a machine that died for less than this."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        report: the contents of its report.json; None where it failed.
        adapted: those of the adaptation's that followed it, if one did.
        error: why it failed.
        finished_before: whether it was finished already.
        hardware: of the machine that finished it now.
    """

    run: SweepRun
    report: Mapping[str, Any] | None = None
    adapted: Mapping[str, Any] | None = None
    error: str | None = None
    finished_before: bool = False
    hardware: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Time that the run's stages took, over all processes that worked on it."""
        return float(sum(sum(report["seconds"].values()) for report in (self.report, self.adapted) if report))


def finished(run_: SweepRun, directory: Path) -> Outcome | None:
    """A finished run's reports; None if there are none, or damaged ones, which a resume writes again.

    Args:
        directory: of the sweep.
    """
    files = RunDirectory(directory / run_.name)
    files.NAMES.refuse_links(files.path)
    try:
        adapted = AdaptDirectory(files.adapted_path).read_report() if run_.config.adapt else None
        return Outcome(run_, files.read_report(), adapted, finished_before=True)
    except (FileNotFoundError, DamagedError):
        return None


def complete(run_: SweepRun, directory: Path, registry: Registry, *, released: bool = True) -> Outcome:
    """Resume or start a run.

    Args:
        directory: of the sweep.
        released: False where a process that worked on the run has died, perhaps on another machine: its lock is waited
            for.
    """
    path, cache = directory / run_.name, MeasurementCache(directory / SHARED_NAME)
    try:
        if RunDirectory(path).config_path.is_file():
            if not released:
                _wait_for_release(RunDirectory(path))
            # The settings are those of the sweep's file, as the sweep has checked; so are trust and all that is given.
            given = {name: getattr(run_.config, name) for name in ("tracker", "executor", "ray_address", "workers")}
            result = resume_run(path, trust_remote_code=True, **given, registry=registry, cache=cache)
        else:
            result = run(run_.config.model_copy(update={"out": path}), registry=registry, cache=cache)
        adapted = result.adapted.report if result.adapted else None
        return Outcome(run_, result.report, adapted, hardware=hardware())
    except BonsaiError as error:
        return Outcome(run_, error=str(error))
    finally:
        free_cache()  # the next model needs the memory


def _wait_for_release(directory: RunDirectory) -> None:
    deadline = time.monotonic() + RELEASE_S
    while directory.is_locked() and time.monotonic() < deadline:
        time.sleep(1.0)
