"""What `bonsai sweep` shows: two bars while it runs, a line per finished run, and the table at the end."""

from __future__ import annotations

import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bonsai_core import hookimpl
from bonsai_core.cli.printing import name, plain, print_note
from bonsai_core.cli.progress import RunBar, duration, progress_bar
from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.events import Event, TokensDone, Warned
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.types import Seed
from bonsai_core.sweep.expand import SweepRun, expand
from bonsai_core.sweep.files import write_results
from bonsai_core.sweep.quantities import MEASURED, QUANTITIES
from bonsai_core.sweep.record import Results, gather
from bonsai_core.sweep.runner import Outcome, run_sweep, state
from bonsai_core.sweep.spec import SweepSpec, read_sweep
from bonsai_core.sweep.table import PER_SEED, cells

MAY_WRAP = ("arm", PER_SEED)
Overrides = Mapping[str, Any]


def sweep_and_report(file: Path, out: Path | None, seeds: str | None, overrides: Overrides, registry: Registry) -> None:
    """Run what is missing, then write and show the results; exit status 1 if a run failed.

    Raises:
        BonsaiError: the file or a setting in it is wrong, or the directory cannot be used.
    """
    console = Console()
    spec, runs, directory = _sweep(file, out, seeds, overrides, registry)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    _print(console, (visible(spec.title), "bold"), f": {len(runs)} runs, into {visible(directory)}")
    progress = SweepProgress(console, runs)

    def conclude(outcomes: Sequence[Outcome]) -> None:
        results = gather(spec, outcomes, command)
        write_results(results, spec.plots, directory)
        console.print(results_view(results))

    try:
        with registry.observed_by(progress, "the progress display"), progress:
            outcomes = run_sweep(runs, directory, registry, progress, keep_models=spec.keep_models, conclude=conclude)
    except KeyboardInterrupt:
        _print(console, f"Interrupted. Everything measured so far is safe. Continue with: {visible(command)}")
        raise
    plots = f"; plots {directory / 'plots'}" if spec.plots else ""
    _print(console, visible(f"page {directory / 'results.html'}; table {directory / 'results.md'}{plots}"))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        message = f"{len(failed)} of {len(runs)} runs failed."
        _print(console, (message, "red"), " The same command tries them again.")
        sys.exit(1)


def show_sweep(file: Path, out: Path | None, seeds: str | None, overrides: Overrides, registry: Registry) -> None:
    """List the runs of a sweep, checked, and how far each is."""
    spec, runs, directory = _sweep(file, out, seeds, overrides, registry)
    settings = list(dict.fromkeys(setting for run in runs for setting in run.point))
    table = Table(box=None)
    for heading in ["arm", *(setting.replace("_", " ") for setting in settings), "seed", "state", "directory"]:
        table.add_column(name(heading))
    for run in runs:
        point = [name(run.point.get(setting, "")) for setting in settings]
        table.add_row(name(run.arm), *point, str(run.seed), state(run, directory), name(run.name))
    console = Console()
    console.print(table)
    _print(console, f"{len(runs)} runs of {visible(spec.title)}, for {visible(directory)}. Nothing was written.")


def results_view(results: Results) -> Table:
    """The table of results."""
    contents = cells(results)
    table = Table(box=None, header_style="bold")
    for number, heading in enumerate(contents.header):
        table.add_column(
            plain(textwrap.fill(heading, 14), lines=True),
            justify="left" if number < contents.num_names else "right",
            no_wrap=heading not in MAY_WRAP,  # rich would rather break numbers than sentences
        )
    for row in contents.rows:
        table.add_row(*map(name, row))
    return table


class SweepProgress:
    """An observer and listener: a bar over all runs of a sweep, and beneath it the bar of the current run."""

    def __init__(self, console: Console, runs: Sequence[SweepRun]) -> None:
        self._console = console
        self._runs = runs
        self._display = progress_bar(console)
        self._task = self._display.add_task("", total=len(runs), left="")
        self._bar: RunBar | None = None
        self._number = 0
        self._start = 0.0
        self._seconds: dict[str, list[float]] = {}
        self._printed: set[str] = set()

    def __enter__(self) -> SweepProgress:
        self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._display.stop()

    def started(self, number: int, run: SweepRun) -> None:
        """Show which run has started."""
        self._number, self._start = number, time.monotonic()
        self._display.update(self._task, description=visible(self._name(number, run)), left=self._left())
        self._bar = RunBar(self._display)

    def finished(self, number: int, outcome: Outcome) -> None:
        """Print a run's result."""
        if self._bar is not None:
            self._bar.remove()
            self._bar = None
        self._display.update(self._task, completed=number)
        which = visible(self._name(number, outcome.run))
        if outcome.report is None:
            _print(self._console, f"{which}: ", ("failed", "red"), f": {visible(outcome.error, lines=True)}")
            return
        self._seconds.setdefault(_kind(outcome.run), []).append(outcome.seconds)
        perplexity = outcome.report["perplexity"]
        pruned, dense = (QUANTITIES[MEASURED].show(perplexity[model]) for model in ("pruned", "dense"))
        how = "finished before" if outcome.finished_before else duration(outcome.seconds)
        _print(self._console, f"{which}: perplexity {pruned} (dense {dense}), {how}")

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if self._bar is not None:
            self._bar.follow(event)
        if isinstance(event, TokensDone):
            self._display.update(self._task, left=self._left())
        elif isinstance(event, Warned) and event.text not in self._printed:
            self._printed.add(event.text)  # most runs of a sweep give the same warnings
            print_note(self._console, event.text)

    def _name(self, number: int, run: SweepRun) -> str:
        return f"run {number} of {len(self._runs)}: {run}"

    def _left(self) -> str:
        """About how long the whole sweep still takes, by finished runs of the same arm and point where possible."""
        if not self._seconds:
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
