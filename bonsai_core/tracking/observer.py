"""The observer between a run and its tracker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bonsai_core.config import PluginChoice
from bonsai_core.contracts import TrackedRun, Tracker
from bonsai_core.errors import shortened
from bonsai_core.events import AdaptationFinished, AdaptationStarted, Event, RunFinished, RunStarted, Warned
from bonsai_core.hookspecs import hookimpl
from bonsai_core.publishing.names import published_settings
from bonsai_core.registry.registry import Registry
from bonsai_core.tracking.values import plain_settings, point_of, summary_of


def ready_tracker(choice: PluginChoice | None, registry: Registry) -> Tracker | None:
    """The chosen tracker; None if none is.

    Raises:
        BonsaiError: there is no such tracker, an option of it is wrong, or its package is missing.
    """
    if choice is None:
        return None
    tracker = cast(Tracker, registry.create("tracker", choice))
    tracker.check_ready()
    return tracker


@contextmanager
def tracked(choice: PluginChoice | None, settings: Mapping[str, Any], registry: Registry) -> Iterator[None]:
    """While open, what happens in a run goes to the chosen tracker, if one is.

    Args:
        settings: what decides the run's result, as plain data.

    Raises:
        BonsaiError: there is no such tracker, an option of it is wrong, or its package is missing.
    """
    tracker = ready_tracker(choice, registry)
    if tracker is None:
        yield
        return
    observer = _Tracking(tracker, settings, registry.observe)
    try:
        with registry.observed_by(observer, f"the tracker {tracker.name}"):
            yield
    finally:
        observer.close({})  # of a run that did not finish


class _Tracking:
    """Opens a record when the run starts, adds points, and closes it with the report."""

    def __init__(self, tracker: Tracker, settings: Mapping[str, Any], observe: Callable[[Event], None]) -> None:
        self._tracker, self._settings, self._observe = tracker, settings, observe
        self._record: TrackedRun | None = None

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        match event:
            case RunStarted() | AdaptationStarted():
                self._open(event.directory)
            case RunFinished() | AdaptationFinished():
                report = json.loads((event.directory / "report.json").read_text(encoding="utf-8"))
                self.close(summary_of(report))
            case _:
                point, record = point_of(event), self._record
                if point is not None and record is not None:
                    self._attempt(lambda: record.log(point.group, point.values, point.step))

    def close(self, summary: Mapping[str, float]) -> None:
        """End the record, if it is open."""
        record, self._record = self._record, None
        if record is not None:
            self._attempt(lambda: record.close(summary))

    def _open(self, directory: Path) -> None:
        def opened() -> None:
            settings = published_settings(self._settings)
            self._record = self._tracker.open(_name(directory), directory, plain_settings(settings))

        self._attempt(opened)

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # whatever a service or its client raises must not cost hours of measurements
            self._record = None
            why = shortened(f"{type(error).__name__}: {error}")
            self._observe(Warned(f"The tracker {self._tracker.name} failed, and gets nothing more of this run: {why}"))


def _name(directory: Path) -> str:
    """The name of a run's directory; of an adaptation inside of a run, both names."""
    path = directory.absolute()
    inside = (path.parent / "report.json").is_file()
    return f"{path.parent.name}-{path.name}" if inside else path.name
