"""`bonsai push`."""

from __future__ import annotations

import rich_click as click
from rich.console import Console

import bonsai_core
from bonsai_core.cli.live import quiet_libraries, warn
from bonsai_core.cli.printing import plain
from bonsai_core.cli.settings import installed


@click.command()
@click.argument("model")
@click.argument("name")
@click.option("--private", is_flag=True, help="Only you see it, if it is made.")
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with the model.")
def push(model: str, name: str, private: bool, trust_remote_code: bool) -> None:
    """Push a MODEL to the Hugging Face hub as NAME (OWNER/NAME): a run directory, or a checkpoint that Bonsai wrote.

    What is pushed is the checkpoint and its model card, without any path of this machine. The access token is that of
    `hf auth login`, or HF_TOKEN.
    """
    quiet_libraries()
    url = bonsai_core.push(
        model, name, private=private, registry=installed(), trust_remote_code=trust_remote_code, warn=warn
    )
    Console().print(plain(f"pushed to {url}"), soft_wrap=True)
