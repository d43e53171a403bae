"""`bonsai new-plugin`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import rich_click as click
from rich.console import Console

from bonsai_core.cli.printing import plain
from bonsai_core.cli.settings import installed
from bonsai_core.scaffold.new_plugin import PLUGIN_KINDS, write_plugin


@click.command(name="new-plugin")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(PLUGIN_KINDS),
    metavar="KIND",
    required=True,
    help=f"One of {', '.join(PLUGIN_KINDS[:-1])} and {PLUGIN_KINDS[-1]}.",
)
def new_plugin(name: str, kind: str) -> None:
    """Write a package to start a plugin from, in a folder NAME, such as bonsai-peak.

    It has a small example that works and is commented for learning, the tests of its kind, and a README that says how
    to install, try, test and publish it.
    """
    path = write_plugin(name, kind, Path(), installed())
    files = "".join(f"\n    {file}" for file in sorted(path.iterdir()))
    pip, pytest = (f"{shlex.quote(sys.executable)} -m {module}" for module in ("pip install -e", "pytest"))
    steps = f"    {pip} './{path}[test]'\n    {pytest} {path}"
    text = f"wrote{files}\ninstall it, and run its tests:\n{steps}\nthen read {path}/README.md"
    Console().print(plain(text, lines=True), soft_wrap=True)
