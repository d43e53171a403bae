"""How the command line writes text that is not its own: names and messages never steer the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from bonsai_core.display.printable import visible

LONGEST_NAME = 300
"""Characters of a name that a table shows."""


def plain(text: object, *, lines: bool = False) -> Text:
    """Text that is shown as it is: without markup, emoji codes and escape sequences."""
    return Text(visible(text, lines=lines))


def name(text: object) -> Text:
    """A name for a cell of a table, of bounded length."""
    return Text(visible(text, most=LONGEST_NAME))


def text_table(*headings: str | Text) -> Table:
    """An empty table whose cells are broken into lines where they do not fit, and never cut."""
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def number_table(*headings: str | Text) -> Table:
    """The same, with names in the first column and numbers in the others."""
    table = text_table(*headings)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


@dataclass(frozen=True)
class WideTable:
    """A table that is drawn in several parts where it is wider than the terminal, each with the first columns.

    Attributes:
        header, rows: text that may have several lines; it is safe to print.
        num_names: how many of the columns are names, which every part has.
        heading_width: characters after which headings are broken.
        gap: spaces between columns.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1
    heading_width: int = 14
    gap: int = 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        columns: list[Sequence[str]] = list(zip(map(self._heading, self.header), *self.rows, strict=True))
        names, values = columns[: self.num_names], columns[self.num_names :]
        room = options.max_width - sum(map(self._width, names))
        room = max(room, options.max_width // 2)  # names may be broken
        parts: list[list[Sequence[str]]] = [[]]
        for column in values:
            if parts[-1] and sum(map(self._width, [*parts[-1], column])) > room:
                parts.append([])
            parts[-1].append(column)
        for number, part in enumerate(parts):
            if number:
                yield ""
            yield self._part(names, part)

    def _part(self, names: list[Sequence[str]], values: list[Sequence[str]]) -> Table:
        table = Table(box=None, header_style="bold", padding=(0, self.gap, 0, 0), pad_edge=False)
        for heading, *_ in names:
            table.add_column(plain(heading, lines=True), overflow="fold")
        for heading, *_ in values:
            table.add_column(plain(heading, lines=True), overflow="fold", justify="right")
        for row in zip(*(cells for _, *cells in (*names, *values)), strict=True):
            table.add_row(*(plain(cell, lines=True) for cell in row))
        return table

    def _width(self, column: Sequence[str]) -> int:
        return self.gap + max(cell_len(line) for cell in column for line in (cell.splitlines() or [""]))

    def _heading(self, heading: str) -> str:
        return "\n".join(textwrap.fill(line, self.heading_width) for line in heading.splitlines())


def ratio(before: float | None, after: float | None) -> str:
    """How many times a number is what it was; empty where one of them is not finite."""
    return f"x {after / before:.2f}" if before and after is not None else ""


def print_note(console: Console, text: str) -> None:
    """Print something that the user should know."""
    console.print(Text.assemble(("Note:", "yellow"), f" {visible(text, lines=True)}"), soft_wrap=True)
