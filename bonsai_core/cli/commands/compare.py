"""`bonsai eval`, `bench` and `sweep`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import rich_click as click
from rich.console import Console

from bonsai_core.cli.help import Option
from bonsai_core.cli.live import progress_options, quiet_libraries
from bonsai_core.cli.progress import Mode, write_json
from bonsai_core.cli.settings import PathName, SettingsCommand, installed
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.runtimes.bench_config import BenchConfig
from bonsai_core.settings.groups import MACHINE

SWEEP_FIELDS = ("model", "dataset", "eval_dataset", "device", "dtype")
machine_option = partial(click.option, cls=Option, first=True, panel=str(MACHINE["group"]))
EVAL_EXAMPLES = """
bonsai eval runs/mine                              # beside the dense model
bonsai eval runs/mine runs/other --dataset wikitext2 --speed
bonsai eval runs/mine --tasks questions.jsonl --limit 200 --json
"""
BENCH_EXAMPLES = """
bonsai bench runs/mine                             # in transformers
bonsai bench runs/mine --runtime transformers,llama.cpp:q8_0 --batches 1
bonsai bench runs/mine --runtime vllm=/envs/vllm/bin/python --out speed
"""
SWEEP_EXAMPLES = """
bonsai sweep grid.yaml --dry-run                   # what would be run
bonsai sweep grid.yaml --seeds 0,1,2 --out runs/sweeps/mine
bonsai sweep grid.yaml --jobs 4                    # four runs at a time
bonsai sweep grid.yaml --executor ray --ray-address node7:6379 --num-gpus 1
"""


@click.command(name="eval", cls=SettingsCommand, schema=EvalConfig, examples=EVAL_EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@progress_options
def evaluate(as_json: bool, mode: Mode | None, **values: Any) -> None:
    """Measure MODELs beside the dense one: perplexity, size, and on request --tasks and --speed.

    A MODEL is a run directory, a checkpoint, a Hugging Face id or 'demo'.
    """
    given = {name: value for name, value in values.items() if value is not None}
    configuration = EvalConfig.from_mapping(given, "settings")
    quiet_libraries()
    from bonsai_core.cli.evaluation import evaluate_with_progress, evaluation_view
    from bonsai_core.model.storage.memory import return_large_blocks

    return_large_blocks()
    results = evaluate_with_progress(configuration, installed(), mode)
    if mode == "json":
        write_json("Result", **results)
    elif as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        Console().print(evaluation_view(results))


@click.command(name="bench", cls=SettingsCommand, schema=BenchConfig, examples=BENCH_EXAMPLES)
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
    quiet_libraries()
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


@click.command(cls=SettingsCommand, fields=SWEEP_FIELDS, examples=SWEEP_EXAMPLES)
@click.argument("file", type=PathName())
@click.option("--out", type=PathName(), help="Sweep directory [default: runs/sweeps/ and FILE's name]")
@click.option("--seeds", metavar="N,N,...", help="Instead of the file's seeds, as in 0,1,2.")
@click.option("--dry-run", is_flag=True, help="List the runs, check their settings, and write nothing.")
@machine_option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Where runs are executed: on this machine, or as tasks of a Ray cluster. [default: local]",
)
@machine_option(
    "--jobs",
    metavar="N",
    type=int,
    help="Runs at a time on this machine, each in a process of its own, on a GPU of its own where there are several. "
    "[default: 1]",
)
@machine_option(
    "--ray-address",
    metavar="auto|HOST:PORT",
    help="The cluster: that of this machine, or that of a head node. [default: a private one on this machine]",
)
@machine_option(
    "--num-cpus",
    metavar="X",
    type=float,
    help="CPUs that a run takes on a Ray cluster. [default: the file's num_cpus, or 1]",
)
@machine_option(
    "--num-gpus",
    metavar="X",
    type=float,
    help="GPUs that a run takes on a Ray cluster. [default: the file's num_gpus, or 1 where it has any]",
)
@progress_options
def sweep(
    file: Path,
    out: Path | None,
    seeds: str | None,
    dry_run: bool,
    mode: Mode | None,
    executor: Literal["local", "ray"],
    jobs: int | None,
    ray_address: str | None,
    num_cpus: float | None,
    num_gpus: float | None,
    **values: Any,
) -> None:
    """Run a grid of settings with seeds, as FILE (YAML) says, then write a table and plots.

    Settings given here override those of the file's `base`. The same command again does what is missing.
    """
    quiet_libraries()
    from bonsai_core.cli.sweep import show_sweep, sweep_and_report
    from bonsai_core.sweep.places.choice import Where

    given = {name: value for name, value in values.items() if value is not None}
    if dry_run:
        show_sweep(file, out, seeds, given, installed())
    else:
        where = Where(executor, jobs, ray_address, num_cpus, num_gpus)
        sweep_and_report(file, out, seeds, given, where, installed(), mode)
