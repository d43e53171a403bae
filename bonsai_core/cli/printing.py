"""How the command line writes text that is not its own: names and messages never steer the terminal."""

from __future__ import annotations

from rich.console import Console
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


def print_note(console: Console, text: str) -> None:
    """Print something that the user should know."""
    console.print(Text.assemble(("Note:", "yellow"), f" {visible(text, lines=True)}"), soft_wrap=True)
