"""How many sub-models a second do Ray workers measure, what does a batch cost, and what would a cluster do?

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --workers 1 2 [--model demo | --shape 1b] [--json FILE]

The same run, in a process of its own each time: in one process, and by each number of workers of a private Ray cluster.
Options that are not listed are settings of the run, as for `bonsai run`. The first round, in which workers load the
model, does not count. From the run with the fewest workers, the last table predicts rounds on clusters:

    seconds(n) = serial + sub-models x seconds of one / n + batches of a worker x an empty call
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from cost_process import apart
from cost_settings import settings_of
from cost_shapes import SHAPES, write_model
from scaling_run import STAGES, Overhead, Timed, overhead, timed

from bonsai_core.engine.workers import BATCHES_EACH
from bonsai_core.model.storage.device_name import processor_name
from bonsai_core.rundir.versions import versions

PREDICTED = (1, 2, 8, 64)
SUBMODELS = (80, 1_000, 10_000)
"""For which the last table is made: a round of the default, the paper's, and more."""
SETTINGS = {"sparsity": "0.3", "round_fraction": "0.1", "submodels": "40", "guard_dataset": "none"}


def seconds_of_round(run: Timed, cost: Overhead, workers: int, submodels: int) -> float:
    """What a round would take with a number of workers like those of a run, on as many cores or GPUs."""
    batches = min(BATCHES_EACH, submodels / workers)
    sent_mb = submodels / workers / batches * run.units / 1e6
    return run.serial_s + submodels * run.submodel_s / workers + batches * (cost.call_s + sent_mb * cost.mb_s)


def rows(run: Timed, bare: Timed) -> dict[str, str]:
    """A column of the first table."""
    measuring = run.submodels_per_s
    return {
        "sub-models of a round": f"{run.submodels:.0f}",
        "batches of a round": f"{run.batches:.0f}",
        "sub-models/s": f"{measuring:.2f}, x {measuring / bare.submodels_per_s:.2f}",
        "round, s": f"{run.round_s:.2f}, x {run.round_s / bare.round_s:.2f}",
        **{f"of these {stage}, s": f"{run.seconds[stage]:.2f}" for stage in STAGES},
        "a sub-model on a worker, s": f"{run.submodel_s:.3f}" if run.workers else "",
        "nobody measures, s": f"{run.serial_s:.2f}" if run.workers else "",
        "waiting for workers to load, once, s": f"{run.loading_s:.1f}" if run.workers else "",
        "into the object store, MB": f"{run.stored_mb:.3g}" if run.workers else "",
    }


def print_tables(runs: Sequence[Timed], cost: Overhead) -> None:
    bare, *spread = runs
    columns = {_count(run.workers) if run.workers else "in one process": rows(run, bare) for run in runs}
    print(f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |")
    fewest = spread[0]
    print(
        f"\nAn empty call: {1e3 * cost.call_s:.2f} ms; for each MB of keep vectors {1e3 * cost.mb_s:.2f} ms more (a "
        f"sub-model has {fewest.units:,} bytes). A worker that loads nothing starts in {cost.start_s:.1f} s.\n"
    )
    print("| sub-models | workers | round, s | sub-models/s | times as fast as one worker | of its workers' time |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for submodels in SUBMODELS:
        alone = seconds_of_round(fewest, cost, 1, submodels)
        for workers in PREDICTED:
            round_s = seconds_of_round(fewest, cost, workers, submodels)
            cells = [f"{submodels:,}", f"{workers}", f"{round_s:.2f}", f"{submodels / round_s:.2f}"]
            print(f"| {' | '.join(cells)} | {alone / round_s:.2f} | {alone / round_s / workers:.0%} |")
    for run in spread[1:]:
        expected = seconds_of_round(fewest, cost, run.workers, round(run.submodels))
        print(f"\n{_count(run.workers)}: a round of {expected:.2f} s predicted, {run.round_s:.2f} s measured.")


def _count(workers: int) -> str:
    return f"{workers} worker{'s' * (workers != 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--shape", choices=list(SHAPES), help="random weights in this shape, in place of a model")
    parser.add_argument("--json", type=Path, help="where all numbers are written")
    given, more = parser.parse_known_args()
    settings = {**SETTINGS, "model": given.model, **settings_of(parser, more)}
    with tempfile.TemporaryDirectory(prefix="bonsai-scaling-") as folder:
        if given.shape:
            apart(write_model, SHAPES[given.shape], settings.get("dtype", "float32"), Path(folder))
            settings["model"] = folder
        runs = [apart(timed, settings, workers) for workers in (0, *sorted(given.workers))]
    cost = apart(overhead)
    if given.json:
        hardware = {"processor": processor_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
        about = {"date": datetime.now(UTC).isoformat(timespec="minutes"), "hardware": hardware, "versions": versions()}
        found = {**about, "settings": settings, "runs": [asdict(run) for run in runs], "overhead": asdict(cost)}
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print_tables(runs, cost)


if __name__ == "__main__":
    main()
