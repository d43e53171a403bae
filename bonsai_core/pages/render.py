"""From values to a page: one environment of templates, all text escaped, plots inline."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from bonsai_core.display import plotting
from bonsai_core.display.plotting import COLOURS, FAINT, GRID, INK, PAPER
from bonsai_core.display.printable import visible
from bonsai_core.errors import shortened

PALETTE = {
    PAPER: "paper",
    INK: "ink",
    FAINT: "faint",
    GRID: "grid",
    **{colour: f"series-{number}" for number, colour in enumerate(COLOURS)},
}
"""By colour of a plot, the variable of the style sheet that stands for it, so that plots follow light and dark too."""

LONGEST_TEXT = 5_000
"""Characters of one text on a page; of a longer one, the middle is left out."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]{,40}(?![\w-])")


@dataclass(frozen=True)
class Table:
    """A table as text; the first `num_names` columns are names, the rest numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1


@dataclass(frozen=True)
class Plot:
    """A figure on a page.

    Attributes:
        title: a heading of a few words.
        caption: what to see in it, which is also read out instead of it.
        svg: the drawing.
        table: its numbers; None where another table on the page has them.
    """

    title: str
    caption: str
    svg: Markup
    table: Table | None = None


def render(template: str, **values: Any) -> str:
    """The page; what would steer or hide in its text is spelled out."""
    environment = Environment(
        loader=PackageLoader("bonsai_core.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: shortened(value, LONGEST_TEXT) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return visible(environment.get_template(template).render(palette=PALETTE, **values), lines=True)


def unbroken(text: str) -> Markup:
    """A sentence in which no line ends within an option, such as ``--submodels``; everything else is escaped."""
    return Markup(OPTION.sub(r'<span class="unbroken">\g<0></span>', str(escape(shortened(text, LONGEST_TEXT)))))


def drawn(name: str, draw: Callable[[], Figure]) -> Markup:
    """A figure to stand in a page; `name` is unique there."""
    with plotting.style(salt=name, letters="none"), np.errstate(all="ignore"):  # of absurd numbers in a report
        return inline(plotting.as_svg(draw()))


def inline(svg: str) -> Markup:
    """A drawing of ours to stand in a page: without what makes it a file of its own."""
    return Markup(svg[svg.index("<svg") :])
