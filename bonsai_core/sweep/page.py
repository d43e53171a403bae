"""The results as one self-contained HTML page: no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bonsai_core.display.plotting import FAINT, GRID, INK, PAPER
from bonsai_core.display.printable import visible
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.table import cells, failures

TEMPLATE = Path(__file__).with_name("page.html")
VARIABLES = {PAPER: "var(--paper)", INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)"}
"""The page's colours instead of the plots' own, so that plots follow light and dark too."""


def page(results: Results, svgs: Sequence[str]) -> str:
    """The page; `svgs` are the plots in their order."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    written = template.render(
        results=results,
        paragraphs=[part for part in results.about.split("\n\n") if part.strip()],
        table=cells(results),
        failures=failures(results),
        plots=[_inline(svg) for svg in svgs],
    )
    return visible(written, lines=True)


def _inline(svg: str) -> Markup:
    element = svg[svg.index("<svg") :]
    for colour, variable in VARIABLES.items():
        element = element.replace(colour, variable)
    return Markup(element)
