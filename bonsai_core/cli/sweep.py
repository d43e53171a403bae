"""What `bonsai sweep` shows: two bars while it runs, a line per finished run, and the table at the end."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, final

from pydantic import TypeAdapter, ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bonsai_core.cli.bars import Bars
from bonsai_core.cli.printing import LONGEST_NAME, WideTable, name, print_note, text_table
from bonsai_core.cli.progress import Mode, ProgressObserver, RunLines, progress, write_json
from bonsai_core.display.durations import duration
from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.events import Event, Warned
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.types import Seed
from bonsai_core.sweep.expand import SweepRun, expand
from bonsai_core.sweep.files import write_results
from bonsai_core.sweep.quantities import MEASURED, QUANTITIES
from bonsai_core.sweep.record import Results, gather
from bonsai_core.sweep.runner import Outcome, run_sweep, state
from bonsai_core.sweep.spec import SweepSpec, read_sweep
from bonsai_core.sweep.table import cells

Overrides = Mapping[str, Any]


def sweep_and_report(
    file: Path, out: Path | None, seeds: str | None, overrides: Overrides, registry: Registry, mode: Mode | None
) -> None:
    """Run what is missing, then write and show the results; exit status 1 if a run failed.

    Raises:
        BonsaiError: the file or a setting in it is wrong, or the directory cannot be used.
    """
    shown = mode is None
    console = Console(stderr=not shown)
    spec, runs, directory = _sweep(file, out, seeds, overrides, registry)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if shown:
        _print(console, (visible(spec.title), "bold"), f": {len(runs)} runs, into {visible(directory)}")
    listener = SweepProgress(console, runs, None if shown else progress(console, mode))

    def conclude(outcomes: Sequence[Outcome]) -> None:
        results = gather(spec, outcomes, command)
        write_results(results, spec.plots, directory)
        if shown:
            console.print(results_view(results))

    try:
        with registry.observed_by(listener, "the progress display"), listener:
            outcomes = run_sweep(runs, directory, registry, listener, keep_models=spec.keep_models, conclude=conclude)
    except KeyboardInterrupt:
        _print(console, f"Interrupted. Everything measured so far is safe. Continue with: {visible(command)}")
        raise
    plots = f"; plots {directory / 'plots'}" if spec.plots else ""
    page, results = directory / "results.html", directory / "results.json"
    if mode == "json":
        write_json("Result", directory=directory, report=results, page=page)
    else:
        _print(Console(), visible(f"page {page}; table {directory / 'results.md'}{plots}"))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        message = f"{len(failed)} of {len(runs)} runs failed."
        _print(console, (message, "red"), " The same command tries them again.")
        sys.exit(1)


def show_sweep(file: Path, out: Path | None, seeds: str | None, overrides: Overrides, registry: Registry) -> None:
    """List the runs of a sweep, checked, and how far each is."""
    spec, runs, directory = _sweep(file, out, seeds, overrides, registry)
    settings = list(dict.fromkeys(setting for run in runs for setting in run.point))
    table = text_table("arm", *(setting.replace("_", " ") for setting in settings), "seed", "state", "directory")
    for run in runs:
        point = [name(run.point.get(setting, "")) for setting in settings]
        table.add_row(name(run.arm), *point, str(run.seed), state(run, directory), name(run.name))
    console = Console()
    console.print(table)
    _print(console, f"{len(runs)} runs of {visible(spec.title)}, for {visible(directory)}. Nothing was written.")


def results_view(results: Results) -> WideTable:
    """The table of results."""
    contents = cells(results)
    rows = [[visible(cell, most=LONGEST_NAME) for cell in row] for row in contents.rows]
    return WideTable(contents.header, rows, contents.num_names)


@final
class SweepProgress(ProgressObserver):
    """An observer and listener: a bar over all runs of a sweep, beneath it the current run, and a line per run."""

    def __init__(self, console: Console, runs: Sequence[SweepRun], events: ProgressObserver | None = None) -> None:
        self._console = console
        self._events = events
        self._runs = runs
        self._bars = Bars()
        self._run: RunLines | None = None
        self._number = 0
        self._start = 0.0
        self._seconds: dict[str, list[float]] = {}
        self._printed: set[str] = set()
        shows = console.is_terminal and not console.is_dumb_terminal
        live = Live(console=console, get_renderable=self._lines, refresh_per_second=4, transient=True)
        super().__init__(events or (live if shows else nullcontext()))

    def started(self, number: int, run: SweepRun) -> None:
        """Show which run has started."""
        self._number, self._start, self._run = number, time.monotonic(), RunLines()

    def finished(self, number: int, outcome: Outcome) -> None:
        """Print a run's result."""
        self._run, self._number = None, number
        which = visible(self._name(number, outcome.run))
        if outcome.report is None:
            _print(self._console, f"{which}: ", ("failed", "red"), f": {visible(outcome.error, lines=True)}")
            return
        self._seconds.setdefault(_kind(outcome.run), []).append(outcome.seconds)
        perplexity = outcome.report["perplexity"]
        pruned, dense = (QUANTITIES[MEASURED].show(perplexity[model]) for model in ("pruned", "dense"))
        how = "finished before" if outcome.finished_before else duration(outcome.seconds)
        if self._events is None:
            _print(self._console, f"{which}: perplexity {pruned} (dense {dense}), {how}")

    def follow(self, event: Event) -> None:
        if self._events is not None:
            self._events.follow(event)
        elif isinstance(event, Warned) and event.text not in self._printed:
            self._printed.add(event.text)  # most runs of a sweep give the same warnings
            print_note(self._console, event.text)
        if self._run is not None:
            self._run.follow(event)

    def _lines(self) -> RenderableType:
        done = max(0, self._number - 1) if self._run is not None else self._number
        whole = self._bars(done / len(self._runs), self._left())
        if self._run is None:
            return whole
        return Group(whole, Text(f"  {visible(self._name(self._number, self._runs[self._number - 1]))}"), self._run())

    def _name(self, number: int, run: SweepRun) -> str:
        return f"run {number} of {len(self._runs)}: {run}"

    def _left(self) -> str:
        """About how long the whole sweep still takes, by finished runs of the same arm and point where possible."""
        if not self._seconds or self._run is None:
            return ""
        mean = {kind: statistics.fmean(seconds) for kind, seconds in self._seconds.items()}
        usual = statistics.fmean(mean.values())
        now, *rest = [mean.get(_kind(run), usual) for run in self._runs[self._number - 1 :]]
        return f"about {duration(max(0.0, now - (time.monotonic() - self._start)) + sum(rest))} left"


def _kind(run: SweepRun) -> str:
    return repr((run.arm, run.point))


def _sweep(
    file: Path, out: Path | None, seeds: str | None, overrides: Overrides, registry: Registry
) -> tuple[SweepSpec, list[SweepRun], Path]:
    """What the file says, its runs, and the sweep's directory."""
    spec = read_sweep(file)
    if seeds is not None:
        spec = spec.model_copy(update={"seeds": _seeds(seeds)})
    return spec, expand(spec, file, registry, overrides), out or Path("runs") / "sweeps" / file.stem


def _seeds(text: str) -> list[int]:
    try:
        seeds = TypeAdapter(list[Seed]).validate_python(text.split(","))
    except ValidationError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise BonsaiError(
            f"--seeds {shown(text)}: write different whole numbers with commas between them, as in 0,1,2."
        )
    return seeds


def _print(console: Console, *parts: str | tuple[str, str]) -> None:
    console.print(Text.assemble(*parts), soft_wrap=True)
