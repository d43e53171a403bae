"""The look of all plots: one ink, one grid, colours that everybody can distinguish; and how figures become files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.style import context
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bonsai_core.display.printable import visible

PAPER, INK, FAINT, GRID = "#ffffff", "#1f2430", "#5b6473", "#dfe3ea"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#3da5d9", "#6b7280")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HALO = [withStroke(linewidth=3, foreground=PAPER)]
LABEL_GAP = 13.0  # points between the lines of neighbouring labels
LOG_SPAN = 5.0  # values that span more than this factor have a logarithmic axis
MANY_DECADES = 300.0  # beyond this span only whole decades are labelled
PLAIN = FuncFormatter(lambda value, _: f"{value:,.6g}")


def style(salt: str = "", *, letters: Literal["path", "none"] = "path") -> AbstractContextManager[None]:
    """Matplotlib's settings while figures are made and saved, whatever the user's own are.

    Args:
        salt: what the names inside an SVG are derived from; other figures of a page need another one.
        letters: how an SVG has its text: as outlines, the same everywhere (``path``), or as text, which takes the font
            of the page around it (``none``).
    """
    own: Any = {
        "svg.fonttype": letters,
        "svg.hashsalt": salt or "bonsai",
        "font.size": 10,
        "axes.unicode_minus": False,
        "text.parse_math": False,  # a name with dollar signs is a name
    }
    return context(["default", own])


def empty(title: str, height: float = 4.2, pad: float = 14) -> tuple[Figure, Axes]:
    """A figure with bare axes, a light grid and a title."""
    figure = Figure(figsize=(8.0, height), layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot()
    _bare(axes)
    axes.set_title(visible(title, lines=True), loc="left", fontweight="bold", color=INK, pad=pad)
    return figure, axes


def small() -> tuple[Figure, Axes]:
    """A figure for a page, without a title: half of its width on a desk, all of it on a phone."""
    figure = Figure(figsize=(4.6, 3.1), facecolor=PAPER)
    axes = figure.add_axes((0.17, 0.17, 0.8, 0.8))  # laid out by hand, which takes a tenth of the time
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def name_axis(axes: Axes, which: str, label: str) -> None:
    axes.set(**{f"{which}label": visible(label, lines=True)})
    getattr(axes, f"{which}axis").label.set_color(FAINT)


def is_log(values: Sequence[float], log: str | bool) -> bool:
    """Whether an axis over these values is logarithmic, given what the plot asks for (``auto``: by their span)."""
    positive = bool(values) and min(values) > 0
    return positive and (max(values) > LOG_SPAN * min(values) if isinstance(log, str) else log)


def scale_axis(
    axes: Axes, which: str, values: Sequence[float], log: str | bool, label: str, pad: float | None = None
) -> None:
    """An axis, linear or logarithmic, with ticks that people read.

    Args:
        which: ``x`` or ``y``.
        values: those on it, as drawn.
        log: whether it is logarithmic, or ``auto``.
        pad: room on both sides of the values, as a fraction of their span; None leaves the limits alone.
    """
    axis = getattr(axes, f"{which}axis")
    logarithmic = is_log(values, log)
    if logarithmic:
        getattr(axes, f"set_{which}scale")("log")
        wide = max(values) > MANY_DECADES * min(values)
        axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        whole = all(value == round(value) for value in values)
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=whole))
    axis.set_major_formatter(PLAIN)
    if values and pad is not None:
        getattr(axes, f"set_{which}lim")(*_limits(min(values), max(values), logarithmic, pad))
    name_axis(axes, which, label)


def _limits(low: float, high: float, log: bool, pad: float) -> tuple[float, float]:
    if log:
        factor = (high / low) ** pad if high > low else 1.5
        return low / factor, high * factor
    room = pad * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def label_right(figure: Figure, axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (y, text, colour) at the right edge, at its height or as near as the labels beside it allow."""
    ends = sorted(ends)
    figure.draw_without_rendering()  # places the axes
    left = axes.get_xlim()[0]
    heights = [float(axes.transData.transform((left, y))[1]) * 72.0 / figure.dpi for y, _, _ in ends]  # points on paper
    for (y, text, colour), shift in zip(ends, spread(heights, LABEL_GAP), strict=True):
        place = {"xy": (1, y), "xycoords": ("axes fraction", "data")}
        write(axes, visible(text), (8, shift), **place, color=colour, va="center", fontweight="bold")


def write(axes: Axes, text: str, offset: tuple[float, float], **looks: Any) -> None:
    """Write a text, `offset` points from the place that `xy` and `xycoords` among its looks name."""
    axes.annotate(text, xytext=offset, textcoords="offset points", fontsize=9, **looks)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """How far to move each of ascending heights so that all are `gap` apart, as little as possible.

    Heights that are too near share a block; a block is centred on the mean of its own (pool adjacent violators).
    """
    blocks: list[list[float]] = []
    for number, height in enumerate(heights):
        blocks.append([height - number * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [fmean(block) for block in blocks for _ in block]
    return [level[number] + number * gap - height for number, height in enumerate(heights)]


def note(axes: Axes, text: str) -> None:
    """A remark beneath the axes."""
    offset = (0, -46 - 14 * axes.get_xlabel().count("\n"))
    write(axes, textwrap.fill(visible(text), 100), offset, xy=(0, 0), xycoords="axes fraction", color=FAINT, va="top")


def save(figure: Figure, stem: Path) -> str:
    """Write <stem>.svg and <stem>.png, the same bytes for the same data; returns the SVG."""
    figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=160, metadata={"Software": None})
    with style(salt=stem.name):
        svg = as_svg(figure)
    stem.with_name(f"{stem.name}.svg").write_text(svg, encoding="utf-8")
    return svg


def as_svg(figure: Figure) -> str:
    """The figure as an SVG file, in the style at hand; the same for the same data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
