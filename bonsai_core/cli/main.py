"""The command `bonsai`: its commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import time
import traceback

import rich_click as click
from rich.console import Console

from bonsai_core.adaptation.ranks import OtherRankError, launched
from bonsai_core.cli.commands.compare import bench_, evaluate, sweep
from bonsai_core.cli.commands.doctor import doctor
from bonsai_core.cli.commands.export import apply, export
from bonsai_core.cli.commands.lists import families, units
from bonsai_core.cli.commands.new_plugin import new_plugin
from bonsai_core.cli.commands.plugin import plugins
from bonsai_core.cli.commands.prune import adapt, resume, run
from bonsai_core.cli.commands.push import push
from bonsai_core.cli.commands.recipes import recipe_
from bonsai_core.cli.commands.report import report
from bonsai_core.cli.commands.watch import watch
from bonsai_core.cli.faults import fault_in_plugin
from bonsai_core.cli.help import LOOK
from bonsai_core.cli.launcher import refuse_launcher
from bonsai_core.cli.printing import plain
from bonsai_core.cli.settings import installed
from bonsai_core.cli.streams import write_anything
from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError

INTERRUPTED = 130
FIRST_SPEAKS_S = 3.0
"""Time in which the first of several processes says what went wrong."""
GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Prune": (run, adapt, resume, recipe_),
    "Look": (watch, report, units, families, doctor),
    "Compare": (evaluate, bench_, sweep),
    "Ship": (export, push, apply),
    "Extend": (plugins, new_plugin),
}
"""All commands, under the headings of `bonsai --help`."""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "rich_help_config": LOOK},
    epilog="\n\n".join(
        (
            "Examples:",
            "bonsai run --sparsity 0.3                   # prune the demo model",
            "bonsai report runs/NAME                     # its report",
            "bonsai export runs/NAME --format gguf       # for llama.cpp",
            "bonsai run --help-all                       # every setting",
        )
    ),
)
@click.version_option(package_name="bonsai-prune", prog_name="bonsai")
@click.pass_context
def cli(context: click.Context) -> None:
    """Make language models smaller and faster by structured pruning, with forward passes only."""
    refuse_launcher(context.invoked_subcommand or "")


for title, commands in GROUPS.items():
    cli.add_panel(click.RichCommandPanel(title, [command.name or "" for command in commands]))
    for command in commands:
        cli.add_command(command)


def main() -> None:
    """Entry point of the installed command: errors that the user can fix come without a traceback."""
    write_anything()
    number, _ = launched()
    try:
        _run(number)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
        sys.exit(1)
    except PermissionError as error:  # anything may meet a folder that must not be read
        what = error.filename or "What was named"
        _fail(f"{what} cannot be used: {error.strerror or error}. Change its permissions, or name another.")
    except OtherRankError as error:
        sys.exit(1) if number else _fail(str(error))
    except BonsaiError as error:
        _fail(str(error))
    except Exception as error:  # a fault of ours or of a plugin, shown in full; its words may come from anybody's files
        sys.stderr.write(visible(traceback.format_exc(), lines=True))
        ours = "This is a fault in Bonsai; please report it with what is above."
        _fail(f"{fault_in_plugin(error, installed()) or ours} What was measured so far is kept.")


def _run(number: int) -> None:
    """Run the command in process `number` of those that a launcher has started.

    What goes wrong in all of them is said by the first one: when a process fails, launchers end the others.
    """
    try:
        cli(standalone_mode=False)
    except Exception:
        if number:
            time.sleep(FIRST_SPEAKS_S)
        raise


def _fail(message: str) -> None:
    number, _ = launched()
    title = f"Error in process {number}:" if number else "Error:"
    Console(stderr=True).print(f"[bold red]{title}[/bold red]", plain(message, lines=True), soft_wrap=True)
    sys.exit(1)
