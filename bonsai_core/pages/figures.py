"""The figures of the pages, as SVG whose letters are text and whose colours the page's style sheet replaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bonsai_core.display import plotting
from bonsai_core.display.plotting import COLOURS, DASHES, FAINT, INK, MARKERS, PAPER
from bonsai_core.display.printable import visible
from bonsai_core.pages.arrays import Predictions, SiteRanks

MOST_POINTS = 400
"""In a plot; of more, as many are drawn, evenly spaced."""
MOST_NAMES = 12
"""In a legend."""
KL_NAMES = {"measured": "text measured on", "held_out": "held-out text", "guard": "guard, other text"}


def divergence(rounds: Sequence[Mapping[str, Any]]) -> Figure:
    """KL to the dense model by what has been removed; the dense model itself is at the origin."""
    figure, axes = plotting.small()
    heights: list[float] = [0.0]
    for number, (name, label) in enumerate(KL_NAMES.items()):
        points = [(100 * row["sparsity"], row.get("divergence", {}).get(name)) for row in rounds]
        known = [(0.0, 0.0), *((x, y) for x, y in points if y is not None)]
        if len(known) > 1:
            _line(axes, known, number, label)
            heights += [y for _, y in known]
    legend(axes)
    drawn = axes.get_legend_handles_labels()[1]
    what = f"KL, {drawn[0]}" if len(drawn) == 1 else "KL"
    return _finished(figure, axes, rounds, heights, f"{what}, nats per token")


def perplexity(rounds: Sequence[Mapping[str, Any]], dense: float | None, pruned: float | None) -> Figure:
    """Perplexity by what has been removed; the last round's is that of the result."""
    figure, axes = plotting.small()
    points = [(100 * row["sparsity"], row.get("perplexity", pruned)) for row in rounds]
    known = [(x, y) for x, y in [(0.0, dense), *points] if y is not None]
    _line(axes, known, 0, "perplexity")
    return _finished(figure, axes, rounds, [y for _, y in known], "perplexity")


def predicted(found: Predictions) -> Figure:
    """Predicted against measured utilities."""
    figure, axes = plotting.small()
    chosen = evenly(len(found.measured_M))
    measured, guessed = found.measured_M[chosen], found.predicted_M[chosen]
    ends = [float(min(measured.min(), guessed.min())), float(max(measured.max(), guessed.max()))]
    axes.plot(ends, ends, color=FAINT, linestyle=DASHES[1], linewidth=1.2)
    axes.scatter(measured, guessed, s=22, color=COLOURS[0], edgecolors=PAPER, linewidths=0.6, zorder=3)
    plotting.scale_axis(axes, "x", ends, False, "measured utility", pad=0.06)
    plotting.scale_axis(axes, "y", ends, False, "predicted utility", pad=0.06)
    return figure


def ranks(sites: Sequence[SiteRanks]) -> Figure:
    """Mean rank of every site's units by the regression against that by the prior."""
    figure, axes = plotting.small()
    axes.plot([0, 100], [0, 100], color=FAINT, linestyle=DASHES[1], linewidth=1.2)
    for number, kind in enumerate(dict.fromkeys(site.kind for site in sites)):
        own = [site for site in sites if site.kind == kind]
        looks: Any = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        places = [100 * site.prior for site in own], [100 * site.importance for site in own]
        axes.scatter(*places, s=26, edgecolors=PAPER, linewidths=0.6, label=visible(kind), zorder=3, **looks)
    everything = [100 * value for site in sites for value in (site.prior, site.importance)]
    plotting.scale_axis(axes, "x", everything, False, "rank by the prior, %", pad=0.06)
    plotting.scale_axis(axes, "y", everything, False, "rank by the regression, %", pad=0.06)
    legend(axes)
    return figure


def curve(points: Sequence[Mapping[str, Any]], teacher: float | None) -> Figure:
    """Perplexity by the tokens trained on; the teacher's as a level."""
    figure, axes = plotting.small()
    known = [(point["tokens"], point["perplexity"]) for point in points if point["perplexity"] is not None]
    _line(axes, known, 0, "perplexity")
    heights = [y for _, y in known]
    if teacher is not None:
        axes.axhline(teacher, color=FAINT, linestyle=DASHES[1], linewidth=1.2)
        heights.append(teacher)
    plotting.scale_axis(axes, "x", [x for x, _ in known], False, "tokens trained on", pad=0.04)
    plotting.scale_axis(axes, "y", heights, "auto", "perplexity", pad=0.06)
    return figure


def loss(points: Sequence[tuple[float, float]]) -> Figure:
    """The loss by the tokens trained on."""
    figure, axes = plotting.small()
    axes.plot(*zip(*points, strict=True), color=COLOURS[1], linewidth=1.8)
    plotting.scale_axis(axes, "x", [x for x, _ in points], False, "tokens trained on", pad=0.04)
    plotting.scale_axis(axes, "y", [y for _, y in points], False, "loss, nats per token", pad=0.06)
    return figure


def parts(values: Sequence[float], number: int = 20) -> list[tuple[float, float]]:
    """(middle step, mean) of about `number` consecutive parts of about equal size."""
    size = max(1, len(values) // number)
    groups = [(start, values[start : start + size]) for start in range(0, len(values), size)]
    return [(start + (len(group) + 1) / 2, sum(group) / len(group)) for start, group in groups]


def evenly(total: int) -> NDArray[np.int64]:
    """At most `MOST_POINTS` of the numbers 0 to `total` - 1, evenly spaced, int64 [n]."""
    return np.linspace(0, total - 1, min(total, MOST_POINTS)).round().astype(np.int64)


def _line(axes: Axes, points: Sequence[tuple[float, float]], number: int, label: str) -> None:
    x, y = zip(*points, strict=True)
    looks: Any = {"color": COLOURS[number], "linestyle": DASHES[number], "marker": MARKERS[number]}
    axes.plot(x, y, linewidth=1.8, markersize=5, markeredgecolor=PAPER, label=label, **looks)


def _finished(
    figure: Figure, axes: Axes, rounds: Sequence[Mapping[str, Any]], heights: Sequence[float], label: str
) -> Figure:
    across = [0.0, *(100 * row["sparsity"] for row in rounds)]
    plotting.scale_axis(axes, "x", across, False, "removed from the decoder layers, %", pad=0.04)
    plotting.scale_axis(axes, "y", heights, "auto", label, pad=0.06)
    return figure


def legend(axes: Axes) -> None:
    """The names of what is drawn, above the axes, which give way; none where there is only one."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < 2:
        return
    left, bottom, width, height = axes.get_position().bounds
    axes.set_position((left, bottom, width, height - 0.075 * math.ceil(min(len(labels), MOST_NAMES) / 2)))
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.2}
    axes.legend(
        handles[:MOST_NAMES], labels[:MOST_NAMES], frameon=False, labelcolor=INK, fontsize=9, handlelength=1.8, **place
    )
