"""Completes a sweep: reads finished runs, has started ones resumed, and the others started."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import Names, RunDirectory, held
from bonsai_core.rundir.files import refuse_other_than
from bonsai_core.sources import with_absolute_paths
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.one_run import SHARED_NAME, Outcome, finished
from bonsai_core.sweep.places.child import LOGS_NAME
from bonsai_core.sweep.places.in_process import InProcess
from bonsai_core.sweep.places.place import Listener, Place, Task
from bonsai_core.sweep.places.ray_check import TOKEN_NAME

LOCK_NAME = ".lock"
NAMES = Names(
    files=(r"\.lock", r"results\.(json|md|html)(\.partial)?", rf"\{TOKEN_NAME}(\.partial|-.+)?"),
    folders=(SHARED_NAME, "plots", LOGS_NAME),
    temporaries=(rf"{SHARED_NAME}/.+\.(partial|lock|alive)", rf"\{TOKEN_NAME}.*"),
)
"""What a sweep writes beside its runs."""


def run_sweep(
    runs: Sequence[SweepRun],
    directory: Path,
    registry: Registry,
    listener: Listener,
    *,
    keep_models: bool,
    place: Place | None = None,
    conclude: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """All runs; one that fails does not stop the others.

    Args:
        place: where they are executed; None: in this process, one after the other.
        conclude: receives the outcomes, in the order of the runs, while no other process can work on the sweep.

    Raises:
        BonsaiError: a directory holds a run with other settings, another process works on the sweep, or the place
            cannot execute runs.
    """
    place = place or InProcess(registry)
    with _lock(directory):
        for each in runs:
            _refuse_other_settings(each, directory, place)
        NAMES.remove_temporaries(directory)
        outcomes: dict[int, Outcome] = {}
        with closing(_outcomes(runs, directory.absolute(), listener, place)) as ended:
            for number, outcome in ended:
                if outcome.report and not keep_models:
                    files = RunDirectory(directory / outcome.run.name)
                    for path in (files.model_path, AdaptDirectory(files.adapted_path).model_path):
                        shutil.rmtree(path, ignore_errors=True)
                listener.finished(number, outcome)
                outcomes[number] = outcome
        in_order = [outcomes[number] for number in sorted(outcomes)]
        conclude(in_order)
        return in_order


def _outcomes(
    runs: Sequence[SweepRun], directory: Path, listener: Listener, place: Place
) -> Generator[tuple[int, Outcome], None, None]:
    """The outcomes of all runs with their numbers: of those finished before, then of the others as they end."""
    missing = []
    for number, each in enumerate(runs, 1):
        before = finished(each, directory)
        if before is None:
            missing.append(Task(number, each, directory))
        else:
            yield number, before
    if missing:
        with closing(place.complete(missing, listener)) as ended:
            yield from ((task.number, outcome) for task, outcome in ended)


def state(run: SweepRun, directory: Path) -> str:
    """How far a run is: ``finished``, ``started`` or ``to do``."""
    files = RunDirectory(directory / run.name)
    if finished(run, directory) is not None:
        return "finished"
    return "started" if files.config_path.is_file() else "to do"


def _refuse_other_settings(run_: SweepRun, directory: Path, place: Place) -> None:
    path = directory / run_.name
    refuse_other_than("folder", path)
    if not RunDirectory(path).config_path.is_file():
        return
    files = RunDirectory.open(path)
    before, now = files.config().decisive(), suited_to_machine(run_.config).decisive()
    if not place.is_here:  # another machine decides what is left to the machine
        asked = with_absolute_paths(run_.config).decisive()
        now = {name: value for name, value in now.items() if value == asked[name]}
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
