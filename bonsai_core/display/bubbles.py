"""Bubbles: three quantities of several things in one picture, as in Figure 1 of Dery et al. 2024, arXiv:2402.05406."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from bonsai_core.display.plotting import INK, PAPER
from bonsai_core.display.printable import visible

LARGEST = 800.0
"""Area of the largest bubble, in square points."""
ROOM_FOR_TEXT = 150.0
"""Bubbles with less area have their text above them."""


@dataclass(frozen=True)
class Bubble:
    """One thing.

    Attributes:
        series: those of one series have a colour, and a line between them.
        x, y: where it is, as drawn.
        size: what its area is proportional to; 0 or more.
        text: what is written in it, or above it where it is small.
    """

    series: str
    x: float
    y: float
    size: float
    text: str


def draw_bubbles(axes: Axes, bubbles: Sequence[Bubble], colours: Mapping[str, str]) -> list[tuple[float, str, str]]:
    """Draw them; returns (y, series, colour) of each series' last one, for `plotting.label_right`."""
    largest = max((bubble.size for bubble in bubbles), default=1.0) or 1.0
    ends: list[tuple[float, str, str]] = []
    for series in dict.fromkeys(bubble.series for bubble in bubbles):
        own = sorted((bubble for bubble in bubbles if bubble.series == series), key=lambda bubble: bubble.x)
        colour = colours[series]
        path = [bubble.x for bubble in own], [bubble.y for bubble in own]
        axes.plot(*path, color=colour, linewidth=1.2, alpha=0.6, zorder=2, label=visible(series))
        ends.append((own[-1].y, series, colour))
    for number, bubble in enumerate(bubbles):
        area, colour = LARGEST * bubble.size / largest, colours[bubble.series]
        axes.scatter(bubble.x, bubble.y, s=area, color=colour, edgecolors=PAPER, zorder=3 + number)
        small = area < ROOM_FOR_TEXT
        axes.annotate(
            visible(bubble.text, lines=True),
            (bubble.x, bubble.y),
            xytext=(0, 5 + math.sqrt(area / math.pi)) if small else (0, 0),
            textcoords="offset points",
            color=INK if small else PAPER,
            fontsize=8,
            fontweight="bold",
            ha="center",
            va="baseline" if small else "center_baseline",
            zorder=3.5 + number,  # of the same bubble, so that what it hides is hidden whole
        )
    return ends
