"""Perplexity of perturb-and-regress beside one-shot Wanda at the same sparsity, over seeds.

    python benchmarks/against_one_shot.py --dataset CALIBRATION.txt --eval-dataset EVALUATION.txt --seeds 3

All arms go through the same engine, the same text, the same windows; one-shot Wanda is `--estimator none` with the
whole sparsity in one round. Prints a table with the spread over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bonsai_core import RunConfig, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--eval-dataset")
    parser.add_argument("--sparsity", type=float, default=0.2)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    common = {
        "model": chosen.model,
        "dataset": chosen.dataset,
        "eval_dataset": chosen.eval_dataset,
        "sparsity": chosen.sparsity,
        "eval_samples": 12,
        "eval_sequence_length": 1024,
        "latency": False,
    }
    arms: dict[str, dict[str, Any]] = {
        "one-shot Wanda": {"estimator": "none", "round_fraction": chosen.sparsity},
        "Wanda in rounds, no regression": {"estimator": "none"},
        "perturb and regress (default)": {},
    }
    table = Table("method", "perplexity (mean)", "per seed", "decoder sparsity", "dense", "seconds")
    for name, arm in arms.items():
        reports = [_report({**common, **arm, "seed": seed}) for seed in range(chosen.seeds)]
        pruned = [report["perplexity"]["pruned"] for report in reports]
        table.add_row(
            name,
            f"{statistics.mean(pruned):.2f}",
            ", ".join(f"{value:.2f}" for value in pruned),
            f"{reports[0]['sparsity']['decoder']:.2%}",
            f"{reports[0]['perplexity']['dense']:.2f}",
            f"{statistics.mean(sum(report['seconds'].values()) for report in reports):.0f}",
        )
    Console().print(table)


def _report(settings: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return run(RunConfig(**settings, out=Path(folder) / "run")).report


if __name__ == "__main__":
    main()
