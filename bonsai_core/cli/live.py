"""Long work at the terminal: progress while it goes on, the report after it, and how to continue after Ctrl-C."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

from bonsai_core.adaptation.ranks import ALONE, Ranks
from bonsai_core.cli.printing import plain, print_note
from bonsai_core.cli.progress import Mode, progress, write_json
from bonsai_core.cli.settings import installed
from bonsai_core.errors import BonsaiError

Command = TypeVar("Command", bound=Callable[..., Any])
HELP_QUIET = "Print warnings, errors, and where the result is; nothing else."
HELP_JSON = "Print every event as a line of JSON, and nothing else; the last line says where the result is."


def progress_options(command: Command) -> Command:
    """The options ``--quiet`` and ``--json-lines``, as the argument `mode` of a command; None: neither."""
    quiet = click.option("--quiet", "-q", "mode", flag_value="quiet", help=HELP_QUIET)
    json_lines = click.option("--json-lines", "mode", flag_value="json", help=HELP_JSON)
    return quiet(json_lines(command))


def run_live(job: Callable[[], Any], mode: Mode | None, told: Mapping[str, object], ranks: Ranks = ALONE) -> None:
    """Run with progress, then show the report; on Ctrl-C say how to continue. Of several ranks, the first one shows it.

    Args:
        told: options that a resume has to be told again, by name; None for those that were not given.
    """
    from bonsai_core.model.storage.memory import return_large_blocks

    return_large_blocks()
    if not ranks.is_first:
        quiet_libraries()
        with warnings.catch_warnings(action="ignore"):
            job()
        return
    console = Console(stderr=mode is not None)
    observer = progress(console, mode)
    try:
        with installed().observed_by(observer, "the progress display"), observer:
            quiet_libraries()
            result = job()
    except KeyboardInterrupt:
        if observer.directory is not None:
            given = {name: str(value) for name, value in told.items() if value is not None}
            options = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items())
            message = f"Interrupted. {observer.safe} Continue with: bonsai resume {observer.directory}{options}"
            console.print(plain(message), soft_wrap=True)
        raise
    last = getattr(result, "adapted", None) or result
    files = {name: last.directory / path for name, path in (("checkpoint", "model"), ("report", "report.json"))}
    if mode == "json":
        write_json("Result", directory=last.directory, **files)
    elif mode == "quiet":
        words = "; ".join(f"{name} {path}" for name, path in files.items())
        Console().print(plain(words), soft_wrap=True)
    else:
        _show_result(console, result, last)


def _show_result(console: Console, result: Any, last: Any) -> None:
    """The reports of a run and of the adaptation that followed, or of either alone, and what is true of the last."""
    from bonsai_core.adaptation.directory import is_adaptation
    from bonsai_core.cli.adaptation import adapt_view
    from bonsai_core.cli.tables import report_view

    if not is_adaptation(result.directory):
        console.print(report_view(result.report, result.directory))
    if last is not result:
        console.print("")
    if is_adaptation(last.directory):
        console.print(adapt_view(last.report, last.directory))
    show_runtimes(last.directory)
    if result.pushed is not None:
        console.print(plain(f"pushed to {result.pushed}"), soft_wrap=True)


def show_runtimes(run: Path) -> None:
    """What the checkpoint of a run or an adaptation runs in; nothing if it has been moved or removed."""
    from bonsai_core.cli.exports import runtime_view

    quiet_libraries()
    with suppress(BonsaiError):
        Console().print(runtime_view(run, installed()), soft_wrap=True)


def quiet_libraries() -> None:
    """Keep the bars and notices of libraries out of the terminal: one progress display is enough."""
    from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
    from huggingface_hub.utils.tqdm import disable_progress_bars as disable_hub_bars
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
    disable_datasets_bar()
    disable_hub_bars()
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)


def warn(text: str) -> None:
    print_note(Console(stderr=True), text)
