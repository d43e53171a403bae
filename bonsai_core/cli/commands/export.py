"""`bonsai export` and `apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console

import bonsai_core
from bonsai_core.cli.live import quiet_libraries, warn
from bonsai_core.cli.printing import plain
from bonsai_core.cli.settings import FormatCommand, PathName, format_options, installed

EXPORT_EXAMPLES = """
bonsai export runs/mine --format gguf:q8_0 --verify
bonsai export runs/mine --format vllm --out served
bonsai export runs/mine --format gguf --help       # with the options of gguf
"""


@click.command(cls=FormatCommand, examples=EXPORT_EXAMPLES)
@click.argument("model")
@click.option(
    "--format", "format_", metavar="NAME[:VALUE]", required=True, help="As `bonsai plugins exporter` lists them."
)
@click.option("--out", type=PathName(), help="File or directory to write [default: beside the model]")
@click.option("--verify", is_flag=True, help="Load it in its runtime, and compare it with transformers.")
@click.option(
    "--python", metavar="PATH", help="With --verify: the interpreter of the environment that has the runtime."
)
@click.option("--push-to-hub", metavar="NAME", help="Push it to the Hugging Face hub, as OWNER/NAME.")
@click.option("--private", is_flag=True, help="With --push-to-hub: make the repository private.")
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the model.")
def export(
    model: str,
    format_: str,
    out: Path | None,
    verify: bool,
    python: str | None,
    push_to_hub: str | None,
    private: bool,
    trust_remote_code: bool,
    **options: Any,
) -> None:
    """Write a MODEL in the format of a runtime: a run directory, a checkpoint, a Hugging Face id or 'demo'."""
    from bonsai_core.cli.exports import export_view

    quiet_libraries()
    exported = bonsai_core.export(
        model,
        format_,
        out,
        options=format_options(format_, options),
        verify=verify,
        python=python,
        push_to_hub=push_to_hub,
        private=private,
        registry=installed(),
        trust_remote_code=trust_remote_code,
        warn=warn,
    )
    Console().print(export_view(exported), soft_wrap=True)


@click.command()
@click.argument("plan", type=PathName())
@click.option("--base", metavar="MODEL", help="Where the base model is [default: where the plan says it was]")
@click.option("--out", type=PathName(), help="Directory to write [default: beside the plan]")
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the base model.")
def apply(plan: Path, base: str | None, out: Path | None, trust_remote_code: bool) -> None:
    """Rebuild a pruned checkpoint from its base model, as a PLAN says that `export --format plan` has written."""
    quiet_libraries()
    path = bonsai_core.apply_plan(
        plan, out, base=base, registry=installed(), trust_remote_code=trust_remote_code, warn=warn
    )
    Console().print(plain(f"wrote {path}: every tensor is that of the plan's checkpoint"), soft_wrap=True)
