"""`bonsai report`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

from bonsai_core.cli.live import quiet_libraries, show_runtimes
from bonsai_core.cli.printing import name, number_table, plain
from bonsai_core.cli.settings import PathName, installed
from bonsai_core.errors import BonsaiError

COMPARISON = Path("comparison.html")
"""Where the page of several runs goes unless --out says."""
SUFFIXES = (".html", ".htm")


@click.command()
@click.argument("runs", metavar="RUN [RUN ...]", nargs=-1, required=True, type=PathName())
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables; of several runs, a list.")
@click.option("--html", "as_html", is_flag=True, help="Write a page to open in a browser, and say where it is.")
@click.option(
    "--out", type=PathName(), help=f"Where that page goes [default: report.html in RUN; of several, {COMPARISON}]"
)
def report(runs: tuple[Path, ...], as_json: bool, as_html: bool, out: Path | None) -> None:
    """Show the report of a RUN, or of an adaptation; of several runs, side by side."""
    if out is not None and not as_html:
        raise BonsaiError("--out says where the page goes: give --html too.")
    if as_html and as_json:
        raise BonsaiError("--json or --html, not both: one prints, the other writes a page.")
    if as_json:
        found = [_read(run) for run in runs]
        click.echo(json.dumps(found[0] if len(runs) == 1 else found, indent=2))
    elif as_html:
        quiet_libraries()
        _write_page(runs, out)
    elif len(runs) == 1:
        _show(runs[0])
    else:
        _show_side_by_side(runs)


def _read(run: Path) -> Mapping[str, Any]:
    """The report of a run or an adaptation."""
    from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
    from bonsai_core.rundir import RunDirectory

    return (AdaptDirectory if is_adaptation(run) else RunDirectory).open(run).finished_report()


def _show(run: Path) -> None:
    from bonsai_core.adaptation.directory import is_adaptation
    from bonsai_core.cli.adaptation import adapt_view
    from bonsai_core.cli.tables import report_view

    view = adapt_view if is_adaptation(run) else report_view
    Console().print(view(_read(run), run))
    show_runtimes(run)


def _entries(runs: Sequence[Path]) -> list[Any]:
    """The runs to compare, with the adaptations that followed them."""
    from bonsai_core.adaptation.directory import adapted_report, is_adaptation
    from bonsai_core.pages.comparison import Entry
    from bonsai_core.rundir import RunDirectory

    for run in runs:
        if is_adaptation(run):
            raise BonsaiError(f"{run} is an adaptation. Runs are compared with what followed them: name the run.")
    return [Entry(run, _read(run), adapted_report(RunDirectory(run).adapted_path)) for run in runs]


def _show_side_by_side(runs: Sequence[Path]) -> None:
    from bonsai_core.pages.comparison import table

    contents = table(_entries(runs))
    columns = list(zip(contents.header, *contents.rows, strict=True))[1:]  # a column for each run, without its number
    view = number_table(*map(name, columns[0]))
    for quantity in columns[1:]:
        view.add_row(*map(name, quantity))
    Console().print(view)


def _write_page(runs: Sequence[Path], out: Path | None) -> None:
    from bonsai_core.rundir import write_atomically

    path = out or (runs[0] / "report.html" if len(runs) == 1 else COMPARISON)
    if path.suffix.lower() not in SUFFIXES:
        raise BonsaiError(f"{path} must end in {' or '.join(SUFFIXES)}: nothing but a page is ever overwritten by one.")
    if path.exists() and not path.is_file():
        raise BonsaiError(f"{path} is not a file, so no page can take its place. Choose another place with --out.")
    page = _page(runs[0]) if len(runs) == 1 else _comparison(runs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    except OSError as error:
        raise BonsaiError(f"Cannot write {path}: {error.strerror or error}. Choose another place with --out.") from None
    Console().print(plain(f"page {path}"), soft_wrap=True)


def _page(run: Path) -> str:
    from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
    from bonsai_core.adaptation.page import page_of as page_of_adaptation
    from bonsai_core.engine.page import page_of
    from bonsai_core.rundir import RunDirectory

    contents = _read(run)
    if is_adaptation(run):
        return page_of_adaptation(AdaptDirectory.open(run), contents, installed())
    return page_of(RunDirectory.open(run), contents, installed())


def _comparison(runs: Sequence[Path]) -> str:
    from bonsai_core.pages.comparison import comparison_page

    return comparison_page(_entries(runs))
