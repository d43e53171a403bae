"""Runs of a sweep in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from bonsai_core import hookimpl
from bonsai_core.events import Event
from bonsai_core.registry.registry import Registry
from bonsai_core.sweep.one_run import complete
from bonsai_core.sweep.places.place import Ended, Listener, Place, Task


@final
class InProcess(Place):
    """This process.

    Args:
        registry: plugins and observers.
    """

    is_here = True
    several = False

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def complete(self, tasks: Sequence[Task], listener: Listener) -> Ended:
        for task in tasks:
            listener.started(task.number, task.run)
            with self._registry.observed_by(_Forward(task.number, listener), "the sweep"):
                outcome = complete(task.run, task.directory, self._registry)
            yield task, outcome


class _Forward:
    """Tells the listener which run an event is of."""

    def __init__(self, number: int, listener: Listener) -> None:
        self._number, self._listener = number, listener

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        self._listener.event(self._number, event)
