"""The contract of where the runs of a sweep are executed, and what is the same in all such places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bonsai_core.events import Event, Warned
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.one_run import Outcome

ATTEMPTS = 3
"""Processes that may die of one run before it counts as failed."""


class Listener(Protocol):
    """Is notified of a sweep's progress; numbers start at 1."""

    def started(self, number: int, run: SweepRun) -> None:
        """A run is started or resumed; again if its process died."""

    def event(self, number: int, event: Event) -> None:
        """Something happened in a run that is going on."""

    def finished(self, number: int, outcome: Outcome) -> None:
        """A run has its report, or failed."""


@dataclass(frozen=True)
class Task:
    """A run to complete.

    Attributes:
        directory: of the sweep, absolute.
        attempt: from 1; one more for every process of it that died.
    """

    number: int
    run: SweepRun
    directory: Path
    attempt: int = 1


Ended = Generator[tuple[Task, Outcome], None, None]
"""Runs as they end, with what became of them; closing it ends the others."""


class Place(ABC):
    """Where runs are executed.

    Attributes:
        is_here: whether they run on this machine, so that what is left to the machine is known before.
        several: whether they run at the same time.
    """

    is_here: bool
    several: bool

    @abstractmethod
    def complete(self, tasks: Sequence[Task], listener: Listener) -> Ended:
        """Complete all runs.

        Raises:
            BonsaiError: nothing can be run here.
        """


def after_death(task: Task, how: str, listener: Listener) -> Task | Outcome:
    """What follows if the process of a run dies: another attempt, or after several the outcome that it failed.

    Args:
        how: the process died, as the end of a sentence.
    """
    if task.attempt < ATTEMPTS:
        listener.event(task.number, Warned(f"Run {task.number}, {task.run}: its process {how}. It is resumed."))
        return replace(task, attempt=task.attempt + 1)
    return Outcome(task.run, error=f"Its process died {ATTEMPTS} times; the last one {how}.")
