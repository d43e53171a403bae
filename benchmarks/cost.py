"""What does pruning cost beside bare forward passes: time, memory, disk, and weights fetched from elsewhere?

    python benchmarks/cost.py [--shapes pico demo 1b 8b] [--sparsity 0.1] [--submodels 80] [--json FILE]
    python benchmarks/cost.py --shapes demo --max-memory cpu=100MB
    python benchmarks/cost.py --plot FILE.svg

All shapes but `demo`, which is the model that --model names, are those of LLaMA-3, with random weights.
Options that are not listed are settings of the run, as for `bonsai run`. Bare passes run before the run and after it,
and the faster ones count. With --max-memory the model is pruned once more, with only that much of it in memory. With
--plot nothing else is measured. Models and runs are temporary; TMPDIR says where.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from cost_bare import Bare, Batch, bare
from cost_plot import draw, study
from cost_process import apart
from cost_run import Pruned, pruned
from cost_settings import settings_of
from cost_shapes import SHAPES, write_model

from bonsai_core.model.forward.predictions import CHUNK_LOGITS
from bonsai_core.rundir.versions import versions

BATCHES = [
    Batch(windows, logits) for windows in (1, 2, 4, 8, 16, 32, 64) for logits in (CHUNK_LOGITS, 8 * CHUNK_LOGITS)
]
GB = 10**9


@dataclass(frozen=True)
class Cost:
    """What one model's pruning costs.

    Attributes:
        dtype: of the weights.
        before, after: bare passes, before the run at all batches and after it at the run's own and the best one.
        run: with the model in memory.
        elsewhere: with most of it elsewhere; None without --max-memory.
    """

    dtype: str
    device: str
    before: Bare
    after: Bare
    run: Pruned
    elsewhere: Pruned | None

    @property
    def bare_tokens_per_s(self) -> float:
        return max(*self.before.tokens_per_s, *self.after.tokens_per_s)

    @property
    def measuring_tokens_per_s(self) -> float:
        return self.run.measured_tokens / self.run.measure_s

    @property
    def efficiency(self) -> float:
        """Of the engine: tokens per second of its sub-models' stage, repairs included, over bare ones."""
        return self.measuring_tokens_per_s / self.bare_tokens_per_s

    @property
    def run_tokens_per_s(self) -> float:
        """Of all forward passes of the run, over all of its time but loading, saving and verifying."""
        return self.run.forward_tokens / self.run.run_s


def cost(model: str, dtype: str, settings: Mapping[str, str], max_memory: str | None, seconds: float) -> Cost:
    """Measure one model.

    Args:
        settings: of the run.
        max_memory: of a second run; None for none.
        seconds: of bare passes before the run, about, and again after it.
    """
    length = int(settings.get("sequence_length", 256))
    before = apart(bare, model, dtype, length, BATCHES, seconds)
    given = {**settings, "model": model, "dtype": dtype}
    run = apart(pruned, given)
    own = Batch(max(1, run.chunk_tokens // length), CHUNK_LOGITS)
    after = apart(bare, model, dtype, length, [own, before.best], seconds)
    elsewhere = apart(pruned, {**given, "device_map": "auto", "max_memory": max_memory}) if max_memory else None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return Cost(dtype, device, before, after, run, elsewhere)


def rows(cost: Cost) -> dict[str, str]:
    """A column of the table."""
    run, best, away = cost.run, cost.before.best, cost.elsewhere
    inference = cost.after.peak_bytes
    cells = {
        "parameters": f"{run.parameters:,}",
        "forward tokens": f"{run.forward_tokens:,}",
        "bare loop, tokens/s": f"{cost.bare_tokens_per_s:,.0f}",
        "its best batch, windows": f"{best.windows}",
        "sub-models, tokens/s": f"{cost.measuring_tokens_per_s:,.0f}",
        "engine efficiency": f"{cost.efficiency:.2f}",
        "whole run, tokens/s": f"{cost.run_tokens_per_s:,.0f}",
        "of the bare loop": f"{cost.run_tokens_per_s / cost.bare_tokens_per_s:.2f}",
        "run without load and save, s": f"{run.run_s:,.1f}",
        "rounds, s": " ".join(f"{one.seconds:,.1f}" for one in run.rounds),
        **{f"{stage}, s": f"{seconds:,.1f}" for stage, seconds in sorted(run.seconds.items())},
        "tokens of a chunk": f"{run.chunk_tokens:,}",
        "of a batch of sub-models": f"{run.batch_tokens:,}",
        "peak of inference, MB": f"{inference / 1e6:,.0f}",
        "peak of pruning, MB": f"{run.peak_bytes / 1e6:,.0f}, x {run.peak_bytes / inference:.2f}",
        "of that stated, MB": f"{run.stated_bytes / 1e6:,.0f}",
        "scratch on disk, MB": f"{run.scratch_bytes / 1e6:,.1f}",
    }
    if away is not None:
        cells |= {
            "elsewhere: rounds, s": " ".join(f"{one.seconds:,.1f}" for one in away.rounds),
            "elsewhere: peak, MB": f"{away.peak_bytes / 1e6:,.0f}, x {away.peak_bytes / inference:.2f}",
            "elsewhere: scratch on disk, MB": f"{away.scratch_bytes / 1e6:,.1f}",
            "elsewhere: fetched, MB": " ".join(f"{one.fetched_bytes / 1e6:,.1f}" for one in away.rounds),
        }
    return cells


def bars(name: str, cost: Cost) -> list[tuple[str, float, str, float]]:
    """What must hold of a shape: (what, value, ``<=`` or ``>=``, limit)."""
    run, away, on_gpu = cost.run, cost.elsewhere, torch.cuda.is_available()
    working = run.peak_bytes - run.stated_bytes
    found = [
        ("scratch, GB", run.scratch_bytes / GB, "<=", 1.0),
        ("peak less the stated part, over inference", working / cost.after.peak_bytes, "<=", 1.1),
    ]
    if name == "demo" and not on_gpu:
        found.append(("engine efficiency", cost.efficiency, ">=", 0.9))
    if name == "8b" and on_gpu:
        found += [
            ("engine efficiency", cost.efficiency, ">=", 0.5),
            ("slowest round, s", max(one.seconds for one in run.rounds), "<=", 15.0),
            ("run without load and save, s", run.run_s, "<=", 120.0),
        ]
    if away is not None:
        slower = max(a.seconds / r.seconds for a, r in zip(away.rounds, run.rounds, strict=True))
        fetches = max(one.fetched_layers for one in away.rounds) / run.layers
        found += [
            ("elsewhere: same keeps", float(away.kept_units == run.kept_units), ">=", 1.0),
            ("elsewhere: weights differ by", abs(away.weights_rms / run.weights_rms - 1), "<=", 1e-5),
            ("elsewhere: slowest round, over that in memory", slower, "<=", 2.0),
            ("elsewhere: fetches per layer and round", fetches, "<=", 3.0),
            ("elsewhere: scratch, GB", away.scratch_bytes / GB, "<=", 1.0),
        ]
    return found


def print_table(costs: Mapping[str, Cost]) -> None:
    columns = {name: rows(cost) for name, cost in costs.items()}
    print(f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        print(f"| {row} | {' | '.join(column.get(row, '') for column in columns.values())} |")
    print("\n| shape | bar | measured | limit | |\n| --- | --- | ---: | ---: | --- |")
    for name, cost in costs.items():
        for what, value, relation, limit in bars(name, cost):
            holds = value <= limit if relation == "<=" else value >= limit
            print(f"| {name} | {what} | {value:.3g} | {relation} {limit:g} | {'pass' if holds else 'FAIL'} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", nargs="+", choices=["pico", "demo", "1b", "8b"], default=["pico", "demo"])
    parser.add_argument("--model", default="demo", help="the model of the shape `demo`")
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--max-memory", help="limits of a second run, as for `bonsai run`")
    parser.add_argument("--bare-seconds", type=float, default=30.0, help="of bare passes, before and after the run")
    parser.add_argument("--json", type=Path, help="where all numbers are written")
    parser.add_argument("--plot", type=Path, help="draw time and memory against the size of the work, as an SVG file")
    given, more = parser.parse_known_args()
    settings = {"sparsity": "0.1"} | settings_of(parser, more)
    if given.plot:
        draw(study(settings), given.plot)
        return
    costs: dict[str, Cost] = {}
    for name in given.shapes:
        with tempfile.TemporaryDirectory(prefix="bonsai-cost-") as folder:
            if name != "demo":
                apart(write_model, SHAPES[name], given.dtype, Path(folder))
            source = given.model if name == "demo" else folder
            costs[name] = cost(source, given.dtype, settings, given.max_memory, given.bare_seconds)
        if given.json:  # after each shape: the next one may not fit
            shapes = {name: {**asdict(cost), "efficiency": cost.efficiency} for name, cost in costs.items()}
            found = {"versions": versions(), "settings": settings, "shapes": shapes}
            given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print_table(costs)


if __name__ == "__main__":
    main()
