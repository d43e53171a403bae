"""What `bonsai sweep` shows while it goes on: a bar over all runs, beneath it those that are going on."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bonsai_core.cli.bars import Bars
from bonsai_core.cli.printing import print_note
from bonsai_core.cli.progress import JsonLines, Mode, ProgressObserver, Quiet, RunLines
from bonsai_core.display.durations import duration
from bonsai_core.display.printable import visible
from bonsai_core.errors import shortened
from bonsai_core.events import Event, Warned
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.quantities import MEASURED, QUANTITIES

LONGEST_NAME = 36
"""Characters of a run's name; in 80 columns as many are left for what it is doing."""


@final
class SweepProgress:
    """A listener: a bar over all runs, beneath it the runs that are going on, and a line that stays per ended run.

    Args:
        several: runs go on at the same time, so that each has one line; otherwise the one that does has three.
    """

    def __init__(self, console: Console, runs: Sequence[SweepRun], mode: Mode | None, *, several: bool) -> None:
        self._console = console
        self._runs = runs
        self._mode = mode
        self._several = several
        self._bars = Bars()
        self._working: dict[int, RunLines] = {}
        self._followers: dict[int, ProgressObserver] = {}
        self._ended: set[int] = set()
        self._seconds: dict[str, list[float]] = {}
        self._printed: set[str] = set()
        shows = mode is None and console.is_terminal and not console.is_dumb_terminal
        live = Live(console=console, get_renderable=self._lines, refresh_per_second=4, transient=True)
        self._shown: AbstractContextManager[object] = live if shows else nullcontext()

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    def started(self, number: int, run: SweepRun) -> None:
        """Show that a run has started."""
        self._working[number] = RunLines()

    def event(self, number: int, event: Event) -> None:
        """Show what happened in a run."""
        if self._mode is not None:
            self._follower(number).follow(event)
        elif isinstance(event, Warned) and event.text not in self._printed:
            self._printed.add(event.text)  # most runs of a sweep give the same warnings
            print_note(self._console, event.text)
        if lines := self._working.get(number):
            lines.follow(event)

    def finished(self, number: int, outcome: Outcome) -> None:
        """Print a run's result."""
        self._working.pop(number, None)
        self._ended.add(number)
        if follower := self._followers.pop(number, None):
            follower.__exit__(None, None, None)
        which = self._name(number)
        if outcome.report is None:
            self._print(f"{which}: ", ("failed", "red"), f": {visible(outcome.error, lines=True)}")
            return
        self._seconds.setdefault(_kind(outcome.run), []).append(outcome.seconds)
        perplexity = outcome.report["perplexity"]
        pruned, dense = (QUANTITIES[MEASURED].show(perplexity[model]) for model in ("pruned", "dense"))
        how = "finished before" if outcome.finished_before else duration(outcome.seconds)
        if self._mode is None:
            self._print(f"{which}: perplexity {pruned} (dense {dense}), {how}")

    def _follower(self, number: int) -> ProgressObserver:
        if number not in self._followers:
            follower = JsonLines(self._runs[number - 1].name) if self._mode == "json" else Quiet()
            self._followers[number] = follower.__enter__()
        return self._followers[number]

    def _lines(self) -> RenderableType:
        working = sorted(self._working.items())
        done = len(self._ended) + sum(lines.share() or 0.0 for _, lines in working)
        below = [self._line(number, lines) for number, lines in working] if self._several else []
        whole = self._bars(done / len(self._runs), self._beside(working), *below)
        if self._several or not working:
            return whole
        number, lines = working[0]
        return Group(whole, Text(f"  {self._name(number)}"), lines())

    def _line(self, number: int, lines: RunLines) -> str:
        """The number and the name of a run, how much of it is done, and what it is doing."""
        share = lines.share()
        done = "" if share is None else f"{share:.0%}"
        name = set_cell_size(self._short(self._runs[number - 1]), max(cell_len(self._short(run)) for run in self._runs))
        return f"{number:{len(str(len(self._runs)))}} {name} {done:>4} {lines.status.doing}"

    def _short(self, run: SweepRun) -> str:
        return shortened(visible(run), LONGEST_NAME)

    def _beside(self, working: Sequence[tuple[int, RunLines]]) -> str:
        parts = [f"{len(self._ended)} of {len(self._runs)} runs", *([left] if (left := self._left(working)) else [])]
        return ", ".join(parts if self._several else parts[1:])

    def _left(self, working: Sequence[tuple[int, RunLines]]) -> str:
        """About how long the whole sweep still takes, by finished runs of the same arm and point where possible."""
        if not self._seconds or not working:
            return ""
        mean = {kind: statistics.fmean(seconds) for kind, seconds in self._seconds.items()}
        usual = statistics.fmean(mean.values())
        left = 0.0
        for number, run in enumerate(self._runs, 1):
            if number not in self._ended:
                whole = mean.get(_kind(run), usual)
                left += max(0.0, whole - self._working[number].elapsed) if number in self._working else whole
        return f"about {duration(left / len(working))} left"

    def _name(self, number: int) -> str:
        return visible(f"run {number} of {len(self._runs)}: {self._runs[number - 1]}")

    def _print(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)


def _kind(run: SweepRun) -> str:
    return repr((run.arm, run.point))
