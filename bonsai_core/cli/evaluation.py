"""What `bonsai eval` shows: a bar while it measures, then one table, a column for each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from bonsai_core.cli.printing import LONGEST_NAME, WideTable, ratio
from bonsai_core.cli.progress import Mode, progress
from bonsai_core.display.printable import visible
from bonsai_core.evaluation.compare import evaluate
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.registry.registry import Registry

Model = Mapping[str, Any]
Row = tuple[str, list[str], str]
"""(label, a cell for each model, how the last model differs from the first)."""


def evaluate_with_progress(config: EvalConfig, registry: Registry, mode: Mode | None) -> dict[str, Any]:
    """Measure, with a bar and notes on stderr."""
    observer = progress(Console(stderr=True), mode)
    with registry.observed_by(observer, "the progress display"), observer:
        return evaluate(config, registry=registry)


def evaluation_view(results: Mapping[str, Any]) -> RenderableType:
    """Everything in one table."""
    models, device = results["models"], results["device"]
    names = [f"{model['model']} (dense)" if model["dense"] else model["model"] for model in models]
    changes = len(models) == 2 and models[0]["dense"]
    header = ["", *map(_shown, names), *["change"] * changes]
    rows = [
        [_shown(label), *cells, *([change] if changes else [])]
        for label, cells, change in _rows(models, results["text"])
    ]
    table = WideTable(header, rows, heading_width=20)
    notes = [Text("± one standard error; changes of accuracy are paired")] if results["tasks"] else []
    if any("speed" in model for model in models):
        how = "taking turns" if results["taking_turns"] else "one after the other"
        owners = {"cuda": "the GPUs", "mps": "the GPU"}
        owner = owners.get(device.partition(":")[0], "the whole process")
        how += ", medians with quartiles"
        notes.append(Text(f"timed on {device}, {how}; peak memory while generating, of {owner}"))
    return Group(table, *notes)


def _shown(name: str) -> str:
    return visible(name, most=LONGEST_NAME)


def _rows(models: list[Model], text: Mapping[str, Any]) -> list[Row]:
    what = f"perplexity ({text['name']}, {text['windows']} x {text['sequence_length']:,} tokens)"
    rows = [
        _number(what, [model["perplexity"] for model in models], "{:.2f}"),
        _number("parameters", [model["parameters"] for model in models], "{:,}"),
        _number("weights, MB", [model["weight_bytes"] / 1e6 for model in models], "{:,.1f}"),
    ]
    for task, first in models[0]["tasks"].items():
        scores = [model["tasks"][task] for model in models]
        for score, title in (("accuracy", "accuracy"), ("accuracy_norm", "accuracy by length")):
            rows.append(_accuracy(f"{task}, {first['questions']:,} questions: {title}, %", scores, score))
    for task, metrics in models[0].get("lm_eval", {}).items():
        for metric in metrics:
            if "stderr" not in metric and metric != "sample_len":
                rows.append(
                    _harness(f"{task}: {metric} (harness)", [model["lm_eval"][task] for model in models], metric)
                )
    for batch in models[0].get("speed", {}):
        rows += _speed(batch, models)
    return rows


def _number(label: str, values: list[Any], style: str, none: str = "not finite") -> Row:
    cells = [none if value is None else style.format(value) for value in values]
    return label, cells, ratio(values[0], values[-1])


def _accuracy(label: str, scores: list[Mapping[str, Any]], name: str) -> Row:
    cells = [_with_error(score[name], score[f"{name}_stderr"], "{:.1f}") for score in scores]
    last = scores[-1]
    if f"{name}_change" not in last:
        return label, cells, ""
    return label, cells, _with_error(last[f"{name}_change"], last[f"{name}_change_stderr"], "{:+.1f}")


def _with_error(fraction: float, error: float | None, style: str) -> str:
    return style.format(100 * fraction) + (f" ± {100 * error:.1f}" if error is not None else "")


def _harness(label: str, results: list[Mapping[str, Any]], metric: str) -> Row:
    stderr = metric.replace(" ", "_stderr ", 1) if " " in metric else f"{metric}_stderr"
    errors = [metrics.get(stderr) for metrics in results]
    cells = [
        f"{metrics[metric]:.4g}" + (f" ± {error:.2g}" if isinstance(error, float) else "")
        for metrics, error in zip(results, errors, strict=True)
    ]
    return label, cells, ""


def _speed(batch: str, models: list[Model]) -> list[Row]:
    speeds = [model["speed"][batch] for model in models]

    def row(what: str, numbers: list[Any], factor: float, style: str) -> Row:
        scaled = [number and number * factor for number in numbers]
        return _number(f"{what} (batch {batch})", scaled, style, "does not fit")

    def timed(what: str, phase: str, style: str) -> Row:
        label, cells, change = row(what, [speed and speed[f"{phase}_s"] for speed in speeds], 1e3, style)
        spreads = [speed and speed[f"{phase}_spread_s"] for speed in speeds]
        ends = [spread and [style.format(spread[end] * 1e3) for end in ("low", "high")] for spread in spreads]
        return (
            label,
            [f"{cell}\n({' to '.join(end)})" if end else cell for cell, end in zip(cells, ends, strict=True)],
            change,
        )

    def rate(phase: str) -> list[Any]:
        return [speed and speed[f"{phase}_tokens_per_s"] for speed in speeds]

    return [
        timed("prefill, ms", "prefill", "{:,.1f}"),
        timed("decode, ms per token", "decode", "{:,.2f}"),
        row("prefill, tokens/s", rate("prefill"), 1, "{:,.0f}"),
        row("decode, tokens/s", rate("decode"), 1, "{:,.1f}"),
        row("peak memory, MB", [model["memory"][batch] for model in models], 1e-6, "{:,.0f}"),
    ]
