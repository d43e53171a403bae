"""What `bonsai eval` shows: a bar while it measures, then one table, a column for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from bonsai_core.cli.printing import name, number_table, plain, ratio
from bonsai_core.cli.progress import ProgressObserver
from bonsai_core.evaluation.compare import evaluate
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.registry.registry import Registry

Model = Mapping[str, Any]
Row = tuple[str, Callable[[Model], str], Callable[[Model, Model], str]]
"""(label, a model's cell, how the second differs from the first)."""


def evaluate_with_progress(config: EvalConfig, registry: Registry) -> dict[str, Any]:
    """Measure, with a bar and notes on stderr."""
    observer = ProgressObserver(Console(stderr=True))
    with registry.observed_by(observer, "the progress display"), observer:
        return evaluate(config, registry=registry)


def evaluation_view(results: Mapping[str, Any]) -> RenderableType:
    """Everything in one table."""
    models, device = results["models"], results["device"]
    names = [f"{model['model']} (dense)" if model["dense"] else model["model"] for model in models]
    changes = len(models) == 2 and models[0]["dense"]
    table = number_table("", *map(name, names), *["change"] * changes)
    for column in table.columns[1:]:
        column.overflow = "fold"
    for label, show, change in _rows(models, results["text"]):
        cells = [show(model) for model in models]
        table.add_row(name(label), *map(plain, cells), *([change(*models)] if changes else []))
    notes = [Text("± one standard error; changes of accuracy are paired")] if results["tasks"] else []
    if any("speed" in model for model in models):
        how = "taking turns" if results["taking_turns"] else "one after the other"
        owners = {"cuda": "the GPUs", "mps": "the GPU"}
        owner = owners.get(device.partition(":")[0], "the whole process")
        notes.append(Text(f"timed on {device}, {how}; peak memory while generating, of {owner}"))
    return Group(table, *notes)


def _rows(models: list[Model], text: Mapping[str, Any]) -> list[Row]:
    what = f"perplexity ({text['name']}, {text['windows']} x {text['sequence_length']:,} tokens)"
    rows = [
        _number(what, lambda model: model["perplexity"], "{:.2f}"),
        _number("parameters", lambda model: model["parameters"], "{:,}"),
        _number("weights, MB", lambda model: model["weight_bytes"] / 1e6, "{:,.1f}"),
    ]
    for task, first in models[0]["tasks"].items():
        for score, title in (("accuracy", "accuracy"), ("accuracy_norm", "accuracy by length")):
            rows.append(_accuracy(f"{task}, {first['questions']:,} questions: {title}, %", task, score))
    for task, metrics in models[0].get("lm_eval", {}).items():
        for metric in metrics:
            if "stderr" not in metric and metric != "sample_len":
                rows.append(_harness(task, metric))
    for batch in models[0].get("speed", {}):
        rows += _speed(batch)
    return rows


def _number(label: str, value: Callable[[Model], Any], style: str, none: str = "not finite") -> Row:
    def show(model: Model) -> str:
        return none if value(model) is None else style.format(value(model))

    def change(before: Model, after: Model) -> str:
        return ratio(value(before), value(after))

    return label, show, change


def _accuracy(label: str, task: str, name: str) -> Row:
    def show(model: Model) -> str:
        return _with_error(model["tasks"][task][name], model["tasks"][task][f"{name}_stderr"], "{:.1f}")

    def change(before: Model, after: Model) -> str:
        score = after["tasks"][task]
        return _with_error(score[f"{name}_change"], score[f"{name}_change_stderr"], "{:+.1f}")

    return label, show, change


def _with_error(fraction: float, error: float | None, style: str) -> str:
    return style.format(100 * fraction) + (f" ± {100 * error:.1f}" if error is not None else "")


def _harness(task: str, metric: str) -> Row:
    stderr = metric.replace(" ", "_stderr ", 1) if " " in metric else f"{metric}_stderr"

    def show(model: Model) -> str:
        metrics = model["lm_eval"][task]
        error = metrics.get(stderr)
        return f"{metrics[metric]:.4g}" + (f" ± {error:.2g}" if isinstance(error, float) else "")

    return f"{task}: {metric} (harness)", show, lambda before, after: ""


def _speed(batch: str) -> list[Row]:
    of, none = f"batch {batch}", "does not fit"

    def timed(name: str, factor: float = 1) -> Callable[[Model], Any]:
        return lambda model: (speed := model["speed"][batch]) and speed[name] * factor

    return [
        _number(f"prefill, ms ({of})", timed("prefill_s", 1e3), "{:,.1f}", none),
        _number(f"decode, ms per token ({of})", timed("decode_s", 1e3), "{:,.2f}", none),
        _number(f"prefill, tokens/s ({of})", timed("prefill_tokens_per_s"), "{:,.0f}", none),
        _number(f"decode, tokens/s ({of})", timed("decode_tokens_per_s"), "{:,.1f}", none),
        _number(f"peak memory, MB ({of})", lambda m: m["memory"][batch] and m["memory"][batch] / 1e6, "{:,.0f}", none),
    ]
