"""Commands of `bonsai`. Everything slow is imported inside the command that needs it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

import bonsai_core
from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.cli.printing import plain, print_note
from bonsai_core.cli.progress import ProgressObserver, duration
from bonsai_core.cli.settings import (
    FormatCommand,
    PathName,
    SettingsCommand,
    adapt_settings,
    complete_recipes,
    format_options,
    installed,
    settings,
)
from bonsai_core.cli.streams import write_anything
from bonsai_core.config import RunConfig
from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.events import Event, Warned
from bonsai_core.registry.registry import KINDS
from bonsai_core.runtimes.bench_config import BenchConfig

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
UNITS_FIELDS = ("model", "slicer", "trust_remote_code", "units")
SWEEP_FIELDS = ("model", "dataset", "eval_dataset", "device", "dtype")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="bonsai-prune", prog_name="bonsai")
def cli() -> None:
    """Make language models smaller and faster by structured pruning, with forward passes only."""


def recipe_option(kind: str, envvar: str) -> Callable[[Command], Command]:
    """The option for a recipe of a run or (``adaptation``) of an adaptation."""
    help_ = f"Recipe with any of these settings: a YAML file, or a name that `bonsai plugins {kind}` lists."
    complete = complete_recipes(kind)
    return click.option("--config", metavar="RECIPE", envvar=envvar, shell_complete=complete, help=help_)


@cli.command(cls=SettingsCommand)
@recipe_option("recipe", "BONSAI_CONFIG")
@click.option("--dry-run", is_flag=True, help="Say what would be pruned and how long it would take, then stop.")
def run(config: str | None, dry_run: bool, **values: Any) -> None:
    """Prune a model. Settings come from a recipe, then BONSAI_* variables, then options."""
    configuration = settings(values, config)
    if dry_run:
        _show_dry_run(configuration)
    else:
        _watch(lambda: bonsai_core.run(configuration, registry=installed()))


@cli.command(cls=SettingsCommand, schema=AdaptConfig)
@click.argument("model")
@recipe_option("adaptation", "BONSAI_ADAPT_CONFIG")
def adapt(config: str | None, **values: Any) -> None:
    """Train a pruned MODEL to recover: a run directory, a checkpoint, a Hugging Face id or 'demo'.

    It learns from text and from the dense model, and becomes a checkpoint like the pruned one. Settings come from a
    recipe, then BONSAI_ADAPT_* variables, then options.
    """
    configuration = adapt_settings(values, config)
    _watch(lambda: bonsai_core.adapt(configuration, registry=installed()))


@cli.command()
@click.argument("run", type=PathName())
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the model.")
def resume(run: Path, trust_remote_code: bool) -> None:
    """Continue a RUN, or an adaptation, that was interrupted."""
    _watch(lambda: bonsai_core.resume(run, trust_remote_code=trust_remote_code, registry=installed()))


@cli.command()
@click.argument("run", type=PathName())
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables.")
def report(run: Path, as_json: bool) -> None:
    """Show the report of a RUN, or of an adaptation."""
    from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
    from bonsai_core.cli.adaptation import adapt_view
    from bonsai_core.cli.tables import report_view
    from bonsai_core.rundir import RunDirectory

    kind, view = (AdaptDirectory, adapt_view) if is_adaptation(run) else (RunDirectory, report_view)
    try:
        contents = kind.open(run).read_report()
    except FileNotFoundError:
        raise BonsaiError(f"{run} is not finished; continue it with: bonsai resume {run}") from None
    if as_json:
        click.echo(json.dumps(contents, indent=2))
    else:
        Console().print(view(contents, run))
        _show_runtimes(run)


@cli.command()
@click.argument("kind", required=False)
def plugins(kind: str | None) -> None:
    """List installed plugins, all or of one KIND."""
    from bonsai_core.cli.tables import plugin_view

    if kind is not None and kind.removesuffix("s") not in KINDS:
        raise UnknownNameError("kind of plugin", kind, KINDS)
    Console().print(plugin_view(installed(), kind.removesuffix("s") if kind else None))


@cli.command()
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def families(markdown: bool) -> None:
    """List the model families that can be pruned, and what can be removed from each."""
    from bonsai_core.cli.tables import family_view
    from bonsai_core.registry.family_table import families_markdown

    if markdown:
        click.echo(families_markdown(installed().families()), nl=False)
    else:
        Console().print(family_view(installed().families()))


@cli.command(cls=SettingsCommand, fields=UNITS_FIELDS)
def units(**values: Any) -> None:
    """List what can be removed from a model, and how many parameters each unit has."""
    from bonsai_core.cli.tables import unit_view
    from bonsai_core.model.loading.parent import load_unit_table

    _quiet()
    table = load_unit_table(settings(values, None), installed(), _warn)
    Console().print(unit_view(table))


@cli.command(name="eval", cls=SettingsCommand, schema=EvalConfig)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(as_json: bool, **values: Any) -> None:
    """Measure MODELs beside the dense one: perplexity, size, and on request --tasks and --speed.

    A MODEL is a run directory, a checkpoint, a Hugging Face id or 'demo'.
    """
    given = {name: value for name, value in values.items() if value is not None}
    configuration = EvalConfig.from_mapping(given, "settings")
    _quiet()
    from bonsai_core.cli.evaluation import evaluate_with_progress, evaluation_view
    from bonsai_core.model.storage.memory import return_large_blocks

    return_large_blocks()
    results = evaluate_with_progress(configuration, installed())
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        Console().print(evaluation_view(results))


@cli.command(cls=FormatCommand)
@click.argument("model")
@click.option(
    "--format", "format_", metavar="NAME[:VALUE]", required=True, help="As `bonsai plugins exporter` lists them."
)
@click.option("--out", type=PathName(), help="File or directory to write [default: beside the model]")
@click.option("--verify", is_flag=True, help="Load it in its runtime, and compare it with transformers.")
@click.option(
    "--python", metavar="PATH", help="With --verify: the interpreter of the environment that has the runtime."
)
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the model.")
def export(
    model: str,
    format_: str,
    out: Path | None,
    verify: bool,
    python: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> None:
    """Write a MODEL in the format of a runtime: a run directory, a checkpoint, a Hugging Face id or 'demo'."""
    from bonsai_core.cli.exports import export_view

    _quiet()
    exported = bonsai_core.export(
        model,
        format_,
        out,
        options=format_options(format_, options),
        verify=verify,
        python=python,
        registry=installed(),
        trust_remote_code=trust_remote_code,
        warn=_warn,
    )
    Console().print(export_view(exported), soft_wrap=True)


@cli.command()
@click.argument("plan", type=PathName())
@click.option("--base", metavar="MODEL", help="Where the base model is [default: where the plan says it was]")
@click.option("--out", type=PathName(), help="Directory to write [default: beside the plan]")
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the base model.")
def apply(plan: Path, base: str | None, out: Path | None, trust_remote_code: bool) -> None:
    """Rebuild a pruned checkpoint from its base model, as a PLAN says that `export --format plan` has written."""
    _quiet()
    path = bonsai_core.apply_plan(
        plan, out, base=base, registry=installed(), trust_remote_code=trust_remote_code, warn=_warn
    )
    Console().print(plain(f"wrote {path}: every tensor is that of the plan's checkpoint"), soft_wrap=True)


@cli.command(name="bench", cls=SettingsCommand, schema=BenchConfig)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=PathName(), help="Also write a picture, OUT.png and OUT.svg.")
def bench_(as_json: bool, out: Path | None, **values: Any) -> None:
    """Time MODELs beside the dense one in the runtimes that serve them, taking turns.

    A MODEL is a run directory, a checkpoint, a Hugging Face id or 'demo', or a file that a runtime loads. Every model
    is exported to a temporary directory, and loaded in a process of its own.
    """
    given = {name: value for name, value in values.items() if value is not None}
    configuration = BenchConfig.from_mapping(given, "settings")
    _quiet()
    from bonsai_core.cli.bench import bench_view, bench_with_progress
    from bonsai_core.runtimes.bench_plot import draw_bench

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    results = bench_with_progress(configuration, installed())
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        Console().print(bench_view(results))
    if out is not None:
        draw_bench(results, out)


@cli.command(cls=SettingsCommand, fields=SWEEP_FIELDS)
@click.argument("file", type=PathName())
@click.option("--out", type=PathName(), help="Sweep directory [default: runs/sweeps/ and FILE's name]")
@click.option("--seeds", metavar="N,N,...", help="Instead of the file's seeds, as in 0,1,2.")
@click.option("--dry-run", is_flag=True, help="List the runs, check their settings, and write nothing.")
def sweep(file: Path, out: Path | None, seeds: str | None, dry_run: bool, **values: Any) -> None:
    """Run a grid of settings with seeds, as FILE (YAML) says, then write a table and plots.

    Settings given here override those of the file's `base`. The same command again does what is missing.
    """
    _quiet()
    from bonsai_core.cli.sweep import show_sweep, sweep_and_report

    given = {name: value for name, value in values.items() if value is not None}
    command = show_sweep if dry_run else sweep_and_report
    command(file, out, seeds, given, installed())


def main() -> None:
    """Entry point of the installed command: errors that the user can fix come without a traceback."""
    write_anything()
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except PermissionError as error:  # anything may meet a folder that must not be read
        what = error.filename or "What was named"
        _fail(f"{what} cannot be used: {error.strerror or error}. Change its permissions, or name another.")
    except BonsaiError as error:
        _fail(str(error))
    except Exception:  # a fault of ours, shown in full; but some of its words may come from a stranger's files
        sys.stderr.write(visible(traceback.format_exc(), lines=True))
        _fail("This is a fault in Bonsai; please report it with what is above. What was measured so far is kept.")


def _fail(message: str) -> None:
    Console(stderr=True).print("[bold red]Error:[/bold red]", plain(message, lines=True), soft_wrap=True)
    sys.exit(1)


def _quiet() -> None:
    """Keep the bars and notices of libraries out of the terminal: one progress display is enough."""
    from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
    disable_datasets_bar()
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)


def _watch(job: Callable[[], Any]) -> None:
    """Run with live progress, then show the report; on Ctrl-C say how to continue."""
    from bonsai_core.adaptation.directory import is_adaptation
    from bonsai_core.cli.adaptation import adapt_view
    from bonsai_core.cli.tables import report_view
    from bonsai_core.model.storage.memory import return_large_blocks

    return_large_blocks()
    console = Console()
    observer = ProgressObserver(console)
    try:
        with installed().observed_by(observer, "the progress display"), observer:
            _quiet()
            result = job()
    except KeyboardInterrupt:
        if observer.directory is not None:
            message = f"Interrupted. {observer.safe} Continue with: bonsai resume {observer.directory}"
            console.print(plain(message), soft_wrap=True)
        raise
    if is_adaptation(result.directory):
        console.print(adapt_view(result.report, result.directory))
        _show_runtimes(result.directory)
        return
    console.print(report_view(result.report, result.directory))
    if result.adapted is not None:
        console.print("")
        console.print(adapt_view(result.adapted.report, result.adapted.directory))
    _show_runtimes((result.adapted or result).directory)


def _show_runtimes(run: Path) -> None:
    """What the checkpoint of a run or an adaptation runs in; nothing if it has been moved or removed."""
    from bonsai_core.cli.exports import runtime_view

    _quiet()
    with suppress(BonsaiError):
        Console().print(runtime_view(run, installed()), soft_wrap=True)


def _show_dry_run(configuration: RunConfig) -> None:
    from bonsai_core.cli.tables import unit_view

    _quiet()
    console = Console(highlight=False)
    with installed().observed_by(_PrintWarnings(), "the dry run"):
        forecast = bonsai_core.dry_run(configuration, registry=installed())
    table, adaptation = forecast.table, forecast.adaptation
    console.print(unit_view(table))
    console.print(
        f"{forecast.budget.describe()} in {forecast.num_rounds} rounds; "
        f"{forecast.forward_tokens:,} forward tokens, about {duration(forecast.seconds)} here."
    )
    if adaptation is not None:
        console.print(
            f"Would then adapt it ({adaptation.method}) in {adaptation.steps:,} steps on "
            f"{adaptation.tokens:,} tokens, about {duration(adaptation.seconds)} here."
        )
    console.print("Nothing was written.")


class _PrintWarnings:
    @bonsai_core.hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Warned):
            _warn(event.text)


def _warn(text: str) -> None:
    print_note(Console(stderr=True), text)
