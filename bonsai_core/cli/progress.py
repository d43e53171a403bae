"""Progress for people and programs: live in a terminal, a line per stage in a log, JSON, or nothing."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, final

import psutil
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bonsai_core import hookimpl
from bonsai_core.cli.bars import Bars
from bonsai_core.cli.forecast import Forecast
from bonsai_core.cli.printing import print_note
from bonsai_core.cli.status import Status, milestone
from bonsai_core.display.durations import duration
from bonsai_core.events import AdaptationStarted, Event, RunStarted, StageStarted, TokensDone, Warned

Mode = Literal["quiet", "json"]
TOKENS_PAUSE = 1.0
"""Seconds over which `TokensDone` are added up before they are written as JSON."""


class ProgressObserver(ABC):
    """An observer that shows what goes on while it is open.

    Args:
        shown: is open while it is.

    Attributes:
        directory: the run directory, once the run has started.
        safe: a sentence: what is not lost when the user stops it.
    """

    def __init__(self, shown: AbstractContextManager[object]) -> None:
        self.directory: Path | None = None
        self.safe = "Everything measured so far is safe."
        self._shown = shown

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, RunStarted | AdaptationStarted):
            self.directory = self.directory or event.directory
        if isinstance(event, AdaptationStarted):
            self.safe = "Everything up to the last saved state is safe."
        self.follow(event)

    @abstractmethod
    def follow(self, event: Event) -> None:
        """Show an event."""


def progress(console: Console, mode: Mode | None = None) -> ProgressObserver:
    """What shows progress; without a mode a display, or lines where the console is not a terminal.

    Args:
        console: of the display; JSON goes to standard output, and warnings in the quiet mode to standard error.
    """
    if mode == "json":
        return JsonLines()
    if mode == "quiet":
        return Quiet()
    return LiveLines(console) if console.is_terminal and not console.is_dumb_terminal else PlainLines(console)


@final
class LiveLines(ProgressObserver):
    """Three lines that change, beneath those that stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run = RunLines()
        super().__init__(Live(console=console, get_renderable=self._run, refresh_per_second=4, transient=True))

    def follow(self, event: Event) -> None:
        self._run.follow(event)
        print_milestone(self._console, event, self._run.status)


@final
class PlainLines(ProgressObserver):
    """A line per stage and per round, with the time since the start: for logs."""

    def __init__(self, console: Console) -> None:
        super().__init__(nullcontext())
        self._console = console
        self._status = Status()
        self._start = time.monotonic()

    def follow(self, event: Event) -> None:
        self._status.follow(event)
        if isinstance(event, StageStarted):
            minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
            at = f"[{minutes // 60}:{minutes % 60:02}:{seconds:02}]"
            self._console.print(Text(f"{at} {self._status.doing}"), soft_wrap=True)
        print_milestone(self._console, event, self._status)


@final
class Quiet(ProgressObserver):
    """Warnings alone, on standard error."""

    def __init__(self) -> None:
        super().__init__(nullcontext())

    def follow(self, event: Event) -> None:
        if isinstance(event, Warned):
            print_note(Console(stderr=True), event.text)


@final
class JsonLines(ProgressObserver):
    """Every event as a JSON object on a line of standard output: `event` is its class, the rest are its fields.

    `time` is in seconds since 1970. The tokens of `TokensDone` are added up over a second.

    Args:
        run: of a sweep, which every object names; None: it is no sweep.
    """

    def __init__(self, run: str | None = None) -> None:
        at_the_end = ExitStack()
        at_the_end.callback(self._write_tokens)
        super().__init__(at_the_end)
        self._beside = {} if run is None else {"run": run}
        self._tokens = 0
        self._written = time.monotonic()

    def follow(self, event: Event) -> None:
        if isinstance(event, TokensDone) and not event.replayed:
            self._tokens += event.tokens
            if time.monotonic() - self._written < TOKENS_PAUSE:
                return
        self._write_tokens()
        if not isinstance(event, TokensDone) or event.replayed:
            write_json(type(event).__name__, **self._beside, **asdict(event))

    def _write_tokens(self) -> None:
        if self._tokens:
            write_json(TokensDone.__name__, **self._beside, **asdict(TokensDone(self._tokens)))
        self._tokens, self._written = 0, time.monotonic()


def write_json(event: str, **fields: object) -> None:
    """Write a line of JSON to standard output; a number that is not finite is null, because JSON has none."""
    row = {"event": event, "time": round(time.time(), 3), **{name: _finite(value) for name, value in fields.items()}}
    sys.stdout.write(json.dumps(row, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


class RunLines:
    """The lines of one run: a bar with the time left and memory, what it is doing, and what came out so far."""

    def __init__(self) -> None:
        self.status = Status()
        self._forecast = Forecast()
        self._bars = Bars()
        self._share = 0.0
        self._lock = threading.Lock()  # events come from the run's thread, drawings are made in the display's

    def follow(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            self.status.follow(event)
            self._forecast.follow(event)

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        with self._lock:
            return self._forecast.elapsed

    def share(self) -> float | None:
        """How much of the time is over, in 0..1, never less than before; None where that is not known."""
        return self._share_and_left()[0]

    def __call__(self) -> RenderableType:
        share, left = self._share_and_left()
        beside = [] if left is None else [f"about {duration(left)} left"]
        return self._bars(share, ", ".join([*beside, f"memory {memory()}"]), self.status.doing, self.status.result)

    def _share_and_left(self) -> tuple[float | None, float | None]:
        with self._lock:
            left, elapsed = self._forecast.left(), self._forecast.elapsed
        if left is None:
            return None, None
        self._share = max(self._share, elapsed / (elapsed + left + 1e-9))
        return self._share, left


def memory() -> str:
    """What this process holds now, and of GPUs."""
    shown = f"{psutil.Process().memory_info().rss / 1e6:,.0f} MB"
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return shown
    held = sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count()))
    return f"{shown}, GPU {held / 1e6:,.0f} MB"


def print_milestone(console: Console, event: Event, status: Status) -> None:
    """Print what stays of an event, if anything does."""
    if isinstance(event, Warned):
        print_note(console, event.text)
    elif line := milestone(event, status):
        console.print(Text(line), soft_wrap=True)
