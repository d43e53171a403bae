"""`bonsai plugins`: lists, pages and checks."""

from __future__ import annotations

import sys

import rich_click as click
from click.shell_completion import CompletionItem
from rich.console import Console

from bonsai_core.cli.help import Command
from bonsai_core.cli.settings import installed
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.registry.registry import KINDS, Offer, clash_text

EXAMPLES = """
bonsai plugins                           # all of them
bonsai plugins priors                    # of one kind
bonsai plugins ridge                     # the page of one
bonsai plugins prior/random              # of one of several with this name
bonsai plugins --check ridge             # whether it keeps the laws of its kind
"""


def _complete(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    offers = [offer for kind in KINDS for offer in installed().offers(kind)]
    words = dict.fromkeys(KINDS, "all of this kind") | {offer.name: offer.summary for offer in offers}
    if "/" in start:
        words = {f"{offer.kind}/{offer.name}": offer.summary for offer in offers}
    return [CompletionItem(word, help=help_) for word, help_ in words.items() if word.startswith(start)]


@click.command(cls=Command, examples=EXAMPLES)
@click.argument("what", required=False, metavar="[KIND|NAME]", shell_complete=_complete)
@click.option("--check", is_flag=True, help="Run the laws of its kind on the plugin NAME; exit code 1 if one fails.")
@click.option("--model", metavar="MODEL", help="For --check of a slicer: a model of its family.")
@click.option("--trust-remote-code", is_flag=True, help="Allow modeling code that comes with that model.")
def plugins(what: str | None, check: bool, model: str | None, trust_remote_code: bool) -> None:
    """List installed plugins, all or of one KIND, or show all about the plugin NAME.

    A NAME that several kinds have shows all of them; KIND/NAME is one.
    """
    kind = None if what is None else what.removesuffix("s")
    if kind is not None and kind not in KINDS:
        offers = _named(what or "")
    elif check:
        raise BonsaiError("Name the plugin to check, as in: bonsai plugins --check ridge")
    else:
        from bonsai_core.cli.tables import plugin_view

        Console().print(plugin_view(installed(), kind))
        return
    if check:
        from bonsai_core.cli.plugin_check import print_check

        kept = [print_check(offer, model, trust_remote_code) for offer in offers]
        sys.exit(0 if all(kept) else 1)
    from bonsai_core.cli.plugin_page import plugin_page

    console = Console(highlight=False)
    for offer in offers:
        console.print(plugin_page(offer, installed()), "")


def _named(what: str) -> list[Offer]:
    """The plugins of a name, of all kinds, or the one of KIND/NAME or KIND.NAME.

    Raises:
        BonsaiError: there is none, or two packages offer it.
    """
    kind, _, name = what.rpartition("/") if "/" in what else what.rpartition(".")
    kind = kind.removesuffix("s")
    if kind and kind not in KINDS:
        raise UnknownNameError("kind of plugin", kind, KINDS)
    if clashes := [rows for rows in installed().clashes() if rows[0].name == name and kind in ("", rows[0].kind)]:
        raise BonsaiError("\n".join(map(clash_text, clashes)))
    everything = [offer for each in KINDS for offer in installed().offers(each) if kind in ("", each)]
    found = [offer for offer in everything if offer.name == name]
    if found:
        return found
    names, broken = [offer.name for offer in everything], " ".join(f"[{each}]" for each in installed().problems)
    hint = f"Plugins with problems: {broken}" if broken else "`bonsai plugins` lists them all."
    if kind:
        raise UnknownNameError(kind, name, names, hint)
    raise UnknownNameError("plugin or kind of plugin", name, KINDS, hint, near=names)
