"""The plots of a sweep, each a figure made from its rows."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation

from bonsai_core.display import plotting
from bonsai_core.display.bubbles import Bubble, draw_bubbles
from bonsai_core.display.plotting import COLOURS, DASHES, FAINT, HALO, INK, MARKERS, PAPER
from bonsai_core.sweep.quantities import QUANTITIES, Quantity, describe, show_value
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.results import Group, dense_perplexity, grouped
from bonsai_core.sweep.spec import Bars, Bubbles, Lines, Plot

WHISKER_GAP = 5.0
"""Points between the whiskers of neighbouring lines, which would hide each other."""
WIDE_GRID = 8.0
"""A grid's values that span this factor have a logarithmic axis."""
Looks = Mapping[str, tuple[str, str]]
"""Colour and marker of every arm, the same in all plots of a sweep."""


def draw_all(plots: Sequence[Plot], results: Results, directory: Path) -> list[str]:
    """Write every plot as SVG and PNG; returns the SVGs."""
    directory.mkdir(exist_ok=True)
    with plotting.style():
        return [plotting.save(draw(plot, results), directory / f"{n}-{plot.kind}") for n, plot in enumerate(plots, 1)]


def draw(plot: Plot, results: Results) -> Figure:
    """One plot; groups that have a seed without a finite number are left out, and named beneath."""
    groups = grouped(results.rows, rounds=isinstance(plot, Lines) and plot.rounds)
    needed = [plot.y, *([plot.x, plot.size] if isinstance(plot, Bubbles) else [])]
    if isinstance(plot, Lines) and plot.x in QUANTITIES:
        needed.append(plot.x)
    drawn = [
        group for group in groups if not group.failed and all(group.stat(name).mean is not None for name in needed)
    ]
    arms = dict.fromkeys(row.arm for row in results.rows)
    looks = {arm: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, arm in enumerate(arms)}
    dense = dense_perplexity(results.rows) if QUANTITIES[plot.y].dense else None
    match plot:
        case Lines():
            figure, axes = _lines(plot, drawn, looks, dense)
        case Bars():
            figure, axes = _bars(plot, drawn, looks, dense)
        case Bubbles():
            figure, axes = _bubbles(plot, drawn, looks)
    missing = dict.fromkeys(str(group) for group in groups if group not in drawn)
    if missing:
        plotting.note(axes, "Not drawn, without a finite number: " + "; ".join(missing))
    return figure


def _lines(plot: Lines, groups: Sequence[Group], looks: Looks, dense: float | None) -> tuple[Figure, Axes]:
    quantity = QUANTITIES[plot.y]
    figure, axes = plotting.empty(plot.title or f"{quantity.label} by {plot.x.replace('_', ' ')}")
    places = _x_axis(axes, plot.x, groups)
    series: dict[str, list[tuple[float | None, Group]]] = {}
    for place, group in zip(places, groups, strict=True):
        point = {name: value for name, value in group.point.items() if group.round is not None or name != plot.x}
        series.setdefault(describe(group.arm, point), []).append((place, group))
    heights = [] if dense is None else [dense]
    ends: list[tuple[float, str, str]] = []
    dashes = {arm: itertools.cycle(DASHES) for arm in looks}
    whiskers = any(len(group.rows) > 1 for group in groups)
    moving = [text for text, members in series.items() if all(place is not None for place, _ in members)]
    for text, members in series.items():
        arm = members[0][1].arm
        (colour, marker), dash = looks[arm], next(dashes[arm])
        mean, low, high = _heights(quantity, plot.y, [group for _, group in members])
        heights += [*low, *high]
        if text not in moving:  # the arm's grid has no such setting: one height everywhere
            axes.axhline(mean[0], color=colour, linestyle=dash, linewidth=2, alpha=0.8)
            ends.append((mean[0], text, colour))
            continue
        x = [place for place, _ in members if place is not None]
        aside = (moving.index(text) - (len(moving) - 1) / 2) * WHISKER_GAP / 72 if whiskers else 0.0
        order = sorted(range(len(x)), key=x.__getitem__)
        whisker = [[mean[i] - low[i] for i in order], [high[i] - mean[i] for i in order]]
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 7, "markeredgecolor": PAPER}
        style |= {"linestyle": dash, "linewidth": 2, "elinewidth": 1.4, "capsize": 3.5}
        shifted = axes.transData + ScaledTranslation(aside, 0, figure.dpi_scale_trans)
        axes.errorbar([x[i] for i in order], [mean[i] for i in order], yerr=whisker, transform=shifted, **style)
        ends.append((mean[order[-1]], text, colour))
    if dense is not None and groups:
        axes.axhline(dense, color=FAINT, linestyle=(0, (1, 2)), linewidth=1.4)
        ends.append((dense, f"dense, {quantity.show(dense)}", FAINT))
    plotting.scale_axis(axes, "y", heights, plot.log_y, quantity.label, pad=0.07)
    plotting.label_right(figure, axes, ends)
    return figure, axes


def _bars(plot: Bars, groups: Sequence[Group], arm_looks: Looks, dense: float | None) -> tuple[Figure, Axes]:
    quantity = QUANTITIES[plot.y]
    figure, axes = plotting.empty(plot.title or quantity.label, height=1.6 + 0.48 * max(2, len(groups)), pad=26)
    mean, low, high = _heights(quantity, plot.y, groups)
    everything = [*low, *high, *([] if dense is None else [dense])]
    log = plotting.is_log(everything, plot.log_y)
    floor = 0.8 * min(everything) if log else 0.0
    for i, group in enumerate(groups):
        colour, _ = arm_looks[group.arm]
        values = [value * quantity.scale for value in group.stat(plot.y).finite]
        axes.barh(i, mean[i] - floor, left=floor, height=0.62, color=colour, zorder=2)
        if len(values) > 1:
            axes.scatter(values, [i] * len(values), s=26, color=INK, edgecolors=PAPER, linewidths=0.8, zorder=3)
        looks = {"va": "center", "color": INK, "fontweight": "bold", "path_effects": HALO, "zorder": 4}
        plotting.write(axes, quantity.show(group.stat(plot.y).mean), (9, 0), xy=(max(high[i], 0.0), i), **looks)
    axes.set_yticks(range(len(groups)), [textwrap.fill(str(group), 30) for group in groups])
    axes.set_ylim(max(len(groups), 1) - 0.4, -0.6)
    axes.grid(False, axis="y")
    plotting.scale_axis(axes, "x", everything, plot.log_y, quantity.label + _seeds(groups))
    if everything:
        lowest, highest = min(0.0, *everything), max(0.0, *everything)
        room = 0.14 * (highest - lowest)  # for the numbers behind the bars
        right = highest * (highest / floor) ** 0.14 if log else highest + room
        axes.set_xlim(floor if log else lowest - room * (lowest < 0), right)
    if dense is not None and groups:
        axes.axvline(dense, color=FAINT, linestyle=(0, (1, 2)), linewidth=1.4, zorder=3)
        place = {"xy": (dense, 1), "xycoords": ("data", "axes fraction")}
        plotting.write(axes, f"dense, {quantity.show(dense)}", (0, 5), **place, ha="center", color=FAINT)
    return figure, axes


def _bubbles(plot: Bubbles, groups: Sequence[Group], looks: Looks) -> tuple[Figure, Axes]:
    across, up, area = QUANTITIES[plot.x], QUANTITIES[plot.y], QUANTITIES[plot.size]
    figure, axes = plotting.empty(plot.title or f"{up.label} by {across.label.partition(',')[0]}", height=4.6)
    x, y = _heights(across, plot.x, groups)[0], _heights(up, plot.y, groups)[0]
    sizes = [abs(size) for size in _heights(area, plot.size, groups)[0]]
    bubbles = [
        Bubble(group.arm, x_, y_, size, "\n".join(show_value(value) for value in group.point.values()))
        for group, x_, y_, size in zip(groups, x, y, sizes, strict=True)
    ]
    ends = draw_bubbles(axes, bubbles, {arm: colour for arm, (colour, _) in looks.items()})
    plotting.scale_axis(axes, "y", y, plot.log_y, up.label, pad=0.16)
    plotting.scale_axis(axes, "x", x, False, across.label + _key(area, sizes, groups), pad=0.1)
    plotting.label_right(figure, axes, ends)
    return figure, axes


def _key(area: Quantity, sizes: Sequence[float], groups: Sequence[Group]) -> str:
    """The meaning of the areas, and of the words inside the bubbles."""
    name, _, unit = area.label.partition(", ")
    span = " to ".join(dict.fromkeys(area.style.format(end) for end in (min(sizes), max(sizes)))) if sizes else ""
    settings = dict.fromkeys(name.replace("_", " ") for group in groups for name in group.point)
    inside = f"; inside: {', '.join(settings)}" if settings else ""
    return f"\narea: {name}, {span} {unit}".rstrip() + inside


def _x_axis(axes: Axes, name: str, groups: Sequence[Group]) -> list[float | None]:
    """Set the axis up for a quantity or a setting; returns where every group is on it, None without that setting."""
    if name in QUANTITIES:
        means = _heights(QUANTITIES[name], name, groups)[0]
        plotting.scale_axis(axes, "x", means, False, QUANTITIES[name].label, pad=0.05)
        return [*means]
    values = [group.point[name] for group in groups if name in group.point]
    label = name.replace("_", " ")
    if not values or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        words = list(dict.fromkeys(show_value(value) for value in values))
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.3, max(len(words), 1) - 0.7)
        plotting.name_axis(axes, "x", label)
        return [words.index(show_value(group.point[name])) if name in group.point else None for group in groups]
    wide = min(values) > 0 and max(values) >= WIDE_GRID * min(values)
    plotting.scale_axis(axes, "x", values, wide, label, pad=0.05)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
    return [group.point.get(name) for group in groups]


def _heights(quantity: Quantity, name: str, groups: Sequence[Group]) -> tuple[list[float], list[float], list[float]]:
    """Mean, lowest and highest of every group, as drawn; NaN for a group without numbers."""

    def drawn(value: float | None) -> float:
        return float("nan") if value is None else value * quantity.scale

    stats = [group.stat(name) for group in groups]
    return [drawn(s.mean) for s in stats], [drawn(s.low) for s in stats], [drawn(s.high) for s in stats]


def _seeds(groups: Sequence[Group]) -> str:
    most = max((len(group.rows) for group in groups), default=1)
    return f"; bar: mean, dots: {most} seeds" if most > 1 else ""
