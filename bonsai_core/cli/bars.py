"""A progress bar with a text beside it and lines beneath it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

WIDTH = 30


class Bars:
    """Draws a bar and the lines beneath it; the spinner before it turns from one drawing to the next."""

    def __init__(self) -> None:
        self._spinner = Spinner("dots")

    def __call__(self, share: float | None, beside: str, *below: str) -> RenderableType:
        """A drawing.

        Args:
            share: how much is done, from 0 to 1; None where that is not known.
            below: lines; empty ones are left out, and none is broken, so that nothing jumps.
        """
        line = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=WIDTH, pulse=share is None)
        shown = f"{share:4.0%}  {beside}" if share is not None else beside
        line.add_row(self._spinner, bar, Text(shown, no_wrap=True, overflow="ellipsis"))
        return Group(line, *(Text(f"  {text}", no_wrap=True, overflow="ellipsis") for text in below if text))
