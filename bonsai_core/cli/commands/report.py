"""`bonsai report`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click
from rich.console import Console

from bonsai_core.cli.live import show_runtimes
from bonsai_core.cli.settings import PathName
from bonsai_core.errors import BonsaiError


@click.command()
@click.argument("run", type=PathName())
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of tables.")
def report(run: Path, as_json: bool) -> None:
    """Show the report of a RUN, or of an adaptation."""
    from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
    from bonsai_core.cli.adaptation import adapt_view
    from bonsai_core.cli.tables import report_view
    from bonsai_core.rundir import RunDirectory

    kind, view = (AdaptDirectory, adapt_view) if is_adaptation(run) else (RunDirectory, report_view)
    try:
        contents = kind.open(run).read_report()
    except FileNotFoundError:
        raise BonsaiError(f"{run} is not finished; continue it with: bonsai resume {run}") from None
    if as_json:
        click.echo(json.dumps(contents, indent=2))
    else:
        Console().print(view(contents, run))
        show_runtimes(run)
