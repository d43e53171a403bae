"""A quick look at results from Python: as plain text, and as the small HTML that notebooks show."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from bonsai_core.display.durations import duration
from bonsai_core.display.printable import last_parts, visible
from bonsai_core.pages import adaptation, comparison
from bonsai_core.pages.comparison import Entry
from bonsai_core.pages.render import Table, render
from bonsai_core.pages.tiles import Tile, tiles
from bonsai_core.pages.verdict import Verdict, judge
from bonsai_core.pages.words import number

WIDTH = 80
LONGEST_CELL = 60
"""Characters."""


@dataclass(frozen=True, repr=False)
class QuickLook:
    """What there is to say, and a table; as text where it is printed, as HTML where a notebook shows it.

    Attributes:
        title: what it is, and how good.
        sentences: what to know of it.
        cautions: what the reader should beware of.
        table: numbers with their names in the first column.
    """

    title: str
    sentences: Sequence[str]
    cautions: Sequence[str]
    table: Table

    @property
    def headed(self) -> bool:
        """Whether the table's columns have headings; if not, there is one of values and one of remarks."""
        return any(self.table.header)

    def __str__(self) -> str:
        paragraphs = [self.title, " ".join(self.sentences), *(f"Note: {caution}" for caution in self.cautions)]
        text = [textwrap.fill(paragraph, WIDTH, break_on_hyphens=False) for paragraph in paragraphs if paragraph]
        return visible("\n\n".join([*text, _lines(self.table, right=self.headed)]), lines=True)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return render("quick.html", look=self)


def look_at_run(report: Mapping[str, Any], adapted: Mapping[str, Any] | None = None) -> QuickLook:
    """The verdict on a run, and its main numbers beside those of the dense model.

    Args:
        report: valid by its schema.
        adapted: that of the adaptation that followed, if one did.
    """
    return _look(judge(report, adapted), tiles(report, adapted))


def look_at_adaptation(report: Mapping[str, Any]) -> QuickLook:
    """The verdict on an adaptation, and its main numbers."""
    return _look(adaptation.judge(report), adaptation.tiles(report))


def compare_runs(entries: Sequence[Entry]) -> QuickLook:
    """Runs side by side, each with the adaptation that followed: quality, size, speed, memory."""
    summary, cautions = comparison.summary(entries), comparison.cautions(entries)
    wide = comparison.table(entries)
    columns = list(zip(wide.header, *wide.rows, strict=True))[1:]  # without the numbers, which stand for circles
    return QuickLook(f"{len(entries)} runs side by side", [summary], cautions, Table(columns[0], columns[1:]))


def compare_adaptations(reports: Mapping[Path, Mapping[str, Any]]) -> QuickLook:
    """Adaptations side by side, by their directories."""
    perplexities = [report["perplexity"] for report in reports.values()]
    names = {"perplexity of the dense model": "teacher", "perplexity before": "before", "perplexity after": "after"}
    rows = [[label, *(_known(each, of) for each in perplexities)] for label, of in names.items()]
    others = [adaptation.tiles(report)[1:] for report in reports.values()]
    rows += [[same[0].label, *(tile.value for tile in same)] for same in zip(*others, strict=True)]
    rows.append(["time", *(duration(sum(report["seconds"].values())) for report in reports.values())])
    texts = {repr(sorted(report["evaluation"].items(), key=str)) for report in reports.values()}
    different = ["They were measured on different texts or windows: compare with care."] if len(texts) > 1 else []
    header = ["", *last_parts(map(str, reports)).values()]
    return QuickLook(f"{len(reports)} adaptations side by side", (), different, Table(header, rows))


def _known(perplexity: Mapping[str, float | None], of: str) -> str:
    return "-" if of == "teacher" and perplexity[of] is None else number(perplexity[of])


def _look(verdict: Verdict, found: Sequence[Tile]) -> QuickLook:
    rows = [[tile.label, tile.value, tile.note] for tile in found]
    return QuickLook(f"{verdict.title}: {verdict.words}", verdict.summary, verdict.cautions, Table(["", "", ""], rows))


def _lines(table: Table, *, right: bool) -> str:
    """The table in plain text; all but the first column to the right, or to the left as well."""
    cells = [[visible(cell, most=LONGEST_CELL) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = zip(row, pads, strict=True)
        placed = [pad + cell if right else cell + pad for cell, pad in others]
        lines.append("  ".join(["".join(first), *placed]).rstrip())
    return "\n".join(line for line in lines if line)
