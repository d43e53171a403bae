"""What `bonsai sweep` does: a sweep with progress and the table at its end, or the list of its runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from bonsai_core.cli.printing import LONGEST_NAME, WideTable, name, text_table
from bonsai_core.cli.progress import Mode, write_json
from bonsai_core.cli.sweep_progress import SweepProgress
from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.types import Seed
from bonsai_core.sweep.expand import SweepRun, expand
from bonsai_core.sweep.files import write_results
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.places.choice import Where
from bonsai_core.sweep.record import Results, gather
from bonsai_core.sweep.runner import run_sweep, state
from bonsai_core.sweep.spec import SweepSpec, read_sweep
from bonsai_core.sweep.table import cells

Overrides = Mapping[str, Any]


def sweep_and_report(
    file: Path,
    out: Path | None,
    seeds: str | None,
    overrides: Overrides,
    where: Where,
    registry: Registry,
    mode: Mode | None,
) -> None:
    """Run what is missing, then write and show the results; exit status 1 if a run failed.

    Raises:
        BonsaiError: the file, a setting in it or an option is wrong, or the directory or the cluster cannot be used.
    """
    shown = mode is None
    console = Console(stderr=not shown)
    spec, runs, directory = _sweep(file, out, seeds, overrides, registry)
    place = where.place(spec, registry)
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    if shown:
        _print(console, (visible(spec.title), "bold"), f": {len(runs)} runs, into {visible(directory)}")
    listener = SweepProgress(console, runs, mode, several=place.several)

    def conclude(outcomes: Sequence[Outcome]) -> None:
        results = gather(spec, outcomes, command)
        write_results(results, spec.plots, directory)
        if shown:
            console.print(results_view(results))

    try:
        with listener:
            outcomes = run_sweep(
                runs, directory, registry, listener, keep_models=spec.keep_models, place=place, conclude=conclude
            )
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
