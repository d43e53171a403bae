"""What people see of `bonsai doctor`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bonsai_core.cli.printing import name, plain
from bonsai_core.doctor.finding import Finding, Grade

STYLES: dict[Grade, str] = {"broken": "bold red", "note": "yellow", "missing": "dim", "ok": "green"}
"""By grade, the worst first."""


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print the verdict, then a section per topic, and what to do."""
    broken = sum(each.grade == "broken" for each in findings)
    if broken:
        console.print(Text(f"Bonsai does not work as it should: {broken} broken.\n", style=STYLES["broken"]))
    else:
        console.print(Text("Bonsai works here.\n", style=STYLES["ok"]))
    for topic in dict.fromkeys(finding.topic for finding in findings):
        console.print(Text(topic, style="bold"))
        console.print(Padding(_table([each for each in findings if each.topic == topic]), (0, 0, 1, 2)))
    advised = [each for grade in STYLES for each in findings if each.grade == grade and each.advice]
    if advised:
        console.print(Text("what to do; what is missing is optional", style="bold"))
    for each in advised:  # terminals wrap these themselves, so that a command is copied as one line
        mark = Text(each.grade, style=STYLES[each.grade])
        console.print(Text.assemble("  ", mark, " ", name(each.name), "\n    ", plain(each.advice)), soft_wrap=True)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=24)
    table.add_column(overflow="fold")
    for each in findings:
        table.add_row(Text(each.grade, style=STYLES[each.grade]), name(each.name), plain(each.found))
    return table
