"""How the command line writes text that is not its own: names and messages never steer the terminal."""

from __future__ import annotations

from rich.console import Console
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


def number_table(*headings: str | Text) -> Table:
    """An empty table with names in the first column and numbers in the others."""
    table = Table(box=None, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def ratio(before: float | None, after: float | None) -> str:
    """How many times a number is what it was; empty where one of them is not finite."""
    return f"x {after / before:.2f}" if before and after is not None else ""


def print_note(console: Console, text: str) -> None:
    """Print something that the user should know."""
    console.print(Text.assemble(("Note:", "yellow"), f" {visible(text, lines=True)}"), soft_wrap=True)
