"""`bonsai watch`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rich_click as click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bonsai_core.cli.bars import Bars
from bonsai_core.cli.printing import plain
from bonsai_core.cli.settings import PathName
from bonsai_core.cli.watching import Sight, sight, summary, watched_directory
from bonsai_core.display.durations import duration

PAUSE_S = 1.0
STOPPED = 1


@click.command()
@click.argument("run", type=PathName())
@click.option("--once", is_flag=True, help="Show how far it is, once, and end.")
def watch(run: Path, once: bool) -> None:
    """Show the progress of a RUN, or of an adaptation, that another process works on.

    It only reads. It ends when the run does; Ctrl-C ends the watching, not the run. The exit status is 1 if the
    run is not finished and no process works on it, or nobody can tell whether one does.
    """
    console, bars = Console(), Bars()
    seen = sight(watched_directory(run))

    def lines(seen: Sight) -> RenderableType:
        left = "" if seen.left_s is None else f"about {duration(seen.left_s)} left, "
        return bars(seen.share, f"{left}last news {duration(seen.quiet_s)} ago", seen.doing, seen.result)

    if once and seen.state == "running":
        console.print(_line(seen), soft_wrap=True)
        return
    if not console.is_terminal or console.is_dumb_terminal:
        said = ""
        while seen.state == "running":
            if seen.doing != said:
                console.print(_line(seen), soft_wrap=True)
                said = seen.doing
            time.sleep(PAUSE_S)
            seen = sight(watched_directory(run))
    else:
        console.print(plain(f"Watching {seen.directory.path}; Ctrl-C ends the watching, not the run."), soft_wrap=True)
        with Live(lines(seen), console=console, refresh_per_second=4, transient=True) as live:
            while seen.state == "running":
                live.update(lines(seen))
                time.sleep(PAUSE_S)
                seen = sight(watched_directory(run))
    console.print(plain(_end(seen), lines=True), soft_wrap=True)
    if seen.state != "finished":
        sys.exit(STOPPED)


def _line(seen: Sight) -> Text:
    """How far a run is, in a line for logs."""
    left = "" if seen.left_s is None else f", {seen.share:.0%} done, about {duration(seen.left_s)} left"
    result = f"; {seen.result}" if seen.result else ""
    return plain(f"{seen.doing}{left}, last news {duration(seen.quiet_s)} ago{result}")


def _end(seen: Sight) -> str:
    """What to know of a run that is finished, stopped or silent."""
    path = seen.directory.path
    if seen.state == "finished":
        return f"{path} is finished: {summary(seen.directory.read_report())}.\nAll of it: bonsai report {path}"
    if seen.state == "unknown":
        return (
            f"{path} has been silent for {duration(seen.quiet_s)}, at: {seen.doing}. Whether a process works on it "
            f"cannot be told from here, because its lock may not be written. Look where it was started; if none does, "
            f"continue with: bonsai resume {path}"
        )
    return (
        f"No process works on {path}. It stopped {duration(seen.quiet_s)} ago, at: {seen.doing}. Everything measured "
        f"so far is safe. Continue with: bonsai resume {path}"
    )
