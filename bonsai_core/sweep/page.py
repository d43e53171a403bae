"""The results as one self-contained HTML page: no network, light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from bonsai_core.pages.render import inline, render
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.table import cells, failures


def page(results: Results, svgs: Sequence[str]) -> str:
    """The page; `svgs` are the plots in their order."""
    return render(
        "sweep.html",
        results=results,
        paragraphs=[part for part in results.about.split("\n\n") if part.strip()],
        table=cells(results),
        failures=failures(results),
        plots=[(f"Plot {number} of the results", inline(svg)) for number, svg in enumerate(svgs, 1)],
    )
