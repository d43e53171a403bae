"""The picture of a comparison of speed: how many times as fast as the dense model, in each runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bonsai_core.display import plotting
from bonsai_core.display.plotting import COLOURS, FAINT, INK, MARKERS, PAPER
from bonsai_core.display.printable import last_parts, visible


def draw_bench(results: Mapping[str, Any], stem: Path) -> None:
    """Write <stem>.svg and <stem>.png."""
    with plotting.style():
        plotting.save(draw(results), stem)


def draw(results: Mapping[str, Any]) -> Figure:
    """Medians with quartiles; a row for each runtime, phase, batch and length of prompts, a colour for each model."""
    rows = [(row, phase) for phase in ("prefill", "decode") for row in results["results"]]
    models = list(dict.fromkeys(model["model"] for row, _ in rows for model in row["models"] if not model["dense"]))
    names = last_parts([results["dense"], *models])
    aside = 0.7 / len(models)
    figure, axes = plotting.empty("Speed-up over the dense model", height=1.8 + 0.34 * len(rows), pad=10)
    values = [1.0]
    for place, (row, phase) in enumerate(rows):
        for model in row["models"][1:]:
            number, times = models.index(model["model"]), model["speedup"][phase]
            values += times.values()
            axes.errorbar(
                times["median"],
                place + aside * (number - (len(models) - 1) / 2),
                xerr=[[times["median"] - times["low"]], [times["high"] - times["median"]]],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=7,
                markeredgecolor=PAPER,
                elinewidth=1.4,
                capsize=3.5,
            )
    axes.axvline(1.0, color=FAINT, linestyle=(0, (1, 2)), linewidth=1.4)
    labels = [f"{_served(row)}, {phase}, {row['batch']} x {row['prompt_tokens']}" for row, phase in rows]
    axes.set_yticks(range(len(rows)), [visible(label) for label in labels])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    settings = results["settings"]
    label = (
        f"dense over pruned, median and quartiles of {settings['repeats']} turns\n"
        f"{settings['new_tokens']} new tokens; {results['device']}, {results['dtype']}"
    )
    plotting.scale_axis(axes, "x", values, False, label, pad=0.08)
    legend = []
    for number, model in enumerate(models):
        looks: Any = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        legend.append(Line2D([], [], linestyle="", label=visible(names[model]), **looks))
    figure.legend(handles=legend, loc="outside lower left", frameon=False, labelcolor=INK, ncols=1)
    return figure


def _served(row: Mapping[str, Any]) -> str:
    """The runtime of a row, with the variant of its format if it has one."""
    _, colon, variant = row["format"].partition(":")
    return f"{row['runtime']} {variant}" if colon else str(row["runtime"])
