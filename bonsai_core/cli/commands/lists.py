"""`bonsai families` and `units`."""

from __future__ import annotations

from typing import Any

import rich_click as click
from rich.console import Console

from bonsai_core.cli.live import quiet_libraries, warn
from bonsai_core.cli.settings import SettingsCommand, installed, settings

UNITS_FIELDS = ("model", "slicer", "trust_remote_code", "units")


@click.command()
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def families(markdown: bool) -> None:
    """List the model families that can be pruned, and what can be removed from each."""
    from bonsai_core.cli.tables import family_view
    from bonsai_core.registry.family_table import families_markdown

    if markdown:
        click.echo(families_markdown(installed().families()), nl=False)
    else:
        Console().print(family_view(installed().families()))


@click.command(cls=SettingsCommand, fields=UNITS_FIELDS)
def units(**values: Any) -> None:
    """List what can be removed from a model, and how many parameters each unit has."""
    from bonsai_core.cli.tables import unit_view
    from bonsai_core.model.loading.parent import load_unit_table

    quiet_libraries()
    table = load_unit_table(settings(values, None), installed(), warn)
    Console().print(unit_view(table))
