"""Help pages: what people need first with ``--help``, everything with ``--help-all``, and examples at the end."""

from __future__ import annotations

from typing import Any

import rich_click as click
from rich_click.rich_context import RichContext
from rich_click.rich_help_formatter import RichHelpFormatter
from rich_click.rich_panel import RichOptionPanel

from bonsai_core.settings.groups import HEADINGS

LOOK = {
    "theme": "default-slim",
    "options_table_column_types": ["opt_primary", "metavar", "help"],
    "padding_usage": (1, 0, 1, 0),
    "style_helptext": "",
    "style_options_panel_title_style": "bold not dim",
    "style_commands_panel_title_style": "bold not dim",
}
"""Of all help pages, for rich-click: headings without boxes, so that 80 columns have room for sentences."""
MORE = "--help-all"


class Option(click.RichOption):
    """An option of a command.

    Args:
        first: whether ``--help`` lists it; ``--help-all`` does anyway.
    """

    def __init__(self, *args: Any, first: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = first


class Command(click.RichCommand):
    """A command whose options stand under the headings of settings.

    Args:
        examples: commands as people type them, each with a line on what it is for.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        lines = [line.strip() for line in examples.strip().splitlines()]
        epilog = "\n\n".join(["Examples:", *lines]) if lines else None
        super().__init__(*args, epilog=epilog, panels=[RichOptionPanel(each) for each in HEADINGS], **kwargs)

    def format_help(self, ctx: RichContext, formatter: RichHelpFormatter) -> None:  # type: ignore[override]
        every = self.params
        try:
            if not ctx.meta.get(MORE):
                self.params = [each for each in every if not isinstance(each, Option) or each.first]
            super().format_help(ctx, formatter)
        finally:
            self.params = every


def more_option(plugins: bool) -> click.RichOption:
    """The option that shows the whole page.

    Args:
        plugins: whether the page has options of plugins.
    """

    def show(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            ctx.meta[MORE] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    help_ = "Show all settings, and the options of the chosen plugins." if plugins else "Show all settings."
    return click.RichOption([MORE], is_flag=True, is_eager=True, expose_value=False, callback=show, help=help_)
