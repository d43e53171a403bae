"""`bonsai run`, `adapt` and `resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

import bonsai_core
from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.ranks import joined
from bonsai_core.cli.launcher import refuse_run
from bonsai_core.cli.live import progress_options, quiet_libraries, run_live, warn
from bonsai_core.cli.printing import plain
from bonsai_core.cli.progress import Mode
from bonsai_core.cli.settings import PathName, SettingsCommand, adapt_settings, complete_recipes, installed, settings
from bonsai_core.config import RecordedSettings, RunConfig
from bonsai_core.display.durations import duration
from bonsai_core.events import Event, Warned

Command = TypeVar("Command", bound=Callable[..., Any])
RUN_EXAMPLES = """
bonsai run --sparsity 0.3                          # the demo model
bonsai run --model ./my-model --dataset c4 --target-bytes 2GB --for llama.cpp
bonsai run --model ./my-model --config quality --adapt lora --out runs/mine
bonsai run --estimator lasso --help                # with the options of lasso
"""
ADAPT_EXAMPLES = """
bonsai adapt runs/mine --steps 200                 # LoRA, on the same text
bonsai adapt runs/mine --recover full --tokens 20000000 --dataset c4
bonsai adapt runs/mine --config scales             # a recipe by name
"""


def recipe_option(kind: str, envvar: str) -> Callable[[Command], Command]:
    """The option for a recipe of a run or (``adaptation``) of an adaptation."""
    help_ = "Recipe with any of these settings: a YAML file, or a name that `bonsai recipe list` has."
    complete = complete_recipes(kind)
    return click.option("--config", metavar="RECIPE", envvar=envvar, shell_complete=complete, help=help_)


@click.command(cls=SettingsCommand, examples=RUN_EXAMPLES)
@recipe_option("recipe", "BONSAI_CONFIG")
@click.option("--dry-run", is_flag=True, help="Say what would be pruned and how long it would take, then stop.")
@progress_options
def run(config: str | None, dry_run: bool, mode: Mode | None, **values: Any) -> None:
    """Prune a model.

    Settings come from a recipe, then BONSAI_* variables, then options. The methods are plugins, which `bonsai plugins`
    lists: --prior, --sampler, --metric, --estimator and --compensator.
    """
    configuration = settings(values, config)
    if dry_run:
        _show_dry_run(configuration)
    else:
        run_live(lambda: bonsai_core.run(configuration, registry=installed()), mode, _told(configuration))


@click.command(cls=SettingsCommand, schema=AdaptConfig, examples=ADAPT_EXAMPLES)
@click.argument("model")
@recipe_option("adaptation", "BONSAI_ADAPT_CONFIG")
@progress_options
def adapt(config: str | None, mode: Mode | None, **values: Any) -> None:
    """Train a pruned MODEL to recover: a run directory, a checkpoint, a Hugging Face id or 'demo'.

    It learns from text and from the dense model, and becomes a checkpoint like the pruned one. Settings come from a
    recipe, then BONSAI_ADAPT_* variables, then options. On N GPUs: torchrun --nproc-per-node N -m bonsai_core adapt
    MODEL.
    """
    with joined() as ranks:
        configuration = ranks.share(lambda: adapt_settings(values, config))
        run_live(lambda: bonsai_core.adapt(configuration, registry=installed()), mode, _told(configuration), ranks)


@click.command()
@click.argument("run", type=PathName())
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the model.")
@click.option("--push-to-hub", metavar="OWNER/NAME", help="Push at the end, to the name that it was started with.")
@click.option("--tracker", metavar="NAME", help="Go on with the tracker that it was started with.")
@click.option(
    "--executor", type=click.Choice(["local", "ray"]), help="What measures the sub-models of a run that are left."
)
@click.option("--ray-address", metavar="ADDRESS", help="With --executor ray: auto, or HOST:PORT of a cluster.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that measure sub-models.")
@progress_options
def resume(run: Path, mode: Mode | None, **again: Any) -> None:
    """Continue a RUN, or an adaptation, that was interrupted.

    Without --push-to-hub, --tracker and --executor nothing is sent anywhere, whatever the RUN was started with.
    """

    def job() -> bonsai_core.RunResult | bonsai_core.AdaptResult:
        return bonsai_core.resume(run, registry=installed(), **again)

    told = {name.replace("_", "-"): value for name, value in again.items() if value is not False}
    with joined() as ranks:
        ranks.share(lambda: refuse_run(run, ranks))
        if mode is None and ranks.is_first:
            Console().print(plain(f"Continuing {run}."), soft_wrap=True)
        run_live(job, mode, told, ranks)


def _told(configuration: RecordedSettings) -> dict[str, object]:
    """What is sent elsewhere, as options of `bonsai resume`."""
    tracker = configuration.tracker
    told: dict[str, object] = {
        "push-to-hub": configuration.push_to_hub,
        "tracker": None if tracker is None else tracker.name,
    }
    if isinstance(configuration, RunConfig) and configuration.executor != "local":
        told |= {
            name.replace("_", "-"): getattr(configuration, name) for name in ("executor", "ray_address", "workers")
        }
    return told


def _show_dry_run(configuration: RunConfig) -> None:
    from bonsai_core.cli.tables import unit_view

    quiet_libraries()
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
            warn(event.text)
