"""What a process does that was started for a run of a sweep, on this machine or on another."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bonsai_core import hookimpl
from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.events import Event, Journaled, StepDone, SubmodelMeasured, TokensDone
from bonsai_core.model.storage.memory import return_large_blocks
from bonsai_core.registry.registry import KINDS, Registry
from bonsai_core.sweep.one_run import Outcome, complete
from bonsai_core.sweep.places.child import log_path
from bonsai_core.sweep.places.place import Task

FREQUENT = (Journaled, StepDone, SubmodelMeasured, TokensDone)
PAUSE_S = 0.25
"""For this long, events that are frequent wait for others before they are sent."""
Send = Callable[[Sequence[Event]], None]


def perform(task: Task, send: Send) -> Outcome:
    """Complete a run with the installed plugins.

    Args:
        send: receives the run's events, some at a time.
    """
    return_large_blocks()
    registry, events = Registry(), _Batches(send)
    try:
        with registry.observed_by(events, "the sweep"):
            return complete(task.run, task.directory, registry, released=task.attempt == 1)
    except Exception as error:  # a fault of ours or of a plugin: in a sweep it costs this run only, and is told of
        return Outcome(task.run, error=_fault(error, log_path(task.directory, f"{task.run.name}.fault")))
    finally:
        events.flush()


def refuse_plugins_by_hand(tasks: Sequence[Task], registry: Registry) -> None:
    """Check that no run needs a plugin that was registered by hand, and that only this process knows.

    Raises:
        BonsaiError: one does.
    """
    installed = Registry()
    by_hand = {
        (kind, offer.name): offer.source
        for kind in KINDS
        for offer in registry.offers(kind)
        if offer.name not in {other.name for other in installed.offers(kind)}
    }
    for task in tasks:
        for kind, name in _needed(task.run.config):
            if source := by_hand.get((kind, name)):
                raise BonsaiError(
                    f"Run {task.number}, {task.run}, needs the {kind} {name!r}, which was registered by hand "
                    f"({source}): the processes of runs know installed plugins only. Install it as a package with an "
                    f"entry point of the group 'bonsai', or run the sweep with --executor local and --jobs 1."
                )


def _needed(config: RunConfig) -> list[tuple[str, str]]:
    """The plugins that a run names, as kind and name."""
    choices = {kind: getattr(config, kind, None) for kind in KINDS}
    needed = [(kind, getattr(choice, "name", choice)) for kind, choice in choices.items() if choice]
    needed += [("exporter", runtime.partition(":")[0]) for runtime in config.runtimes]
    return [*needed, *([("adaptation", config.adapt)] if config.adapt else [])]


def _fault(error: Exception, log: Path) -> str:
    log.parent.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return f"{type(error).__name__}: {shortened(str(error))} (a fault in Bonsai or in a plugin; {log} says where)"


class _Batches:
    """An observer that sends events, some at a time where they are frequent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._events: list[Event] = []
        self._sent = 0.0

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        self._events.append(event)
        if not isinstance(event, FREQUENT) or time.monotonic() - self._sent > PAUSE_S:
            self.flush()

    def flush(self) -> None:
        """Send what has not been sent."""
        if self._events:
            events, self._events, self._sent = self._events, [], time.monotonic()
            self._send(events)
