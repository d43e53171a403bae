"""`bonsai recipe list`, `show` and `copy`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from click.shell_completion import CompletionItem
from rich.console import Console

from bonsai_core.cli.printing import plain, print_note
from bonsai_core.cli.recipes import recipe_file, recipe_list
from bonsai_core.cli.settings import PathName, installed
from bonsai_core.errors import BonsaiError
from bonsai_core.registry.recipes import RECIPE_KINDS, kinds_of, offered_recipes
from bonsai_core.registry.registry import Offer, distribution_of
from bonsai_core.rundir.files import write_atomically
from bonsai_core.settings.recipe_files import SUFFIXES


def _complete(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    recipes = {name: recipe for kind in RECIPE_KINDS for name, recipe in offered_recipes(installed(), kind).items()}
    return [CompletionItem(name, help=recipe.summary) for name, recipe in recipes.items() if name.startswith(start)]


NAME = click.argument("name", shell_complete=_complete)
ADAPT = click.option("--adapt", is_flag=True, help="The adaptation's recipe, where a run has one of this name too.")
ALL = click.option("--all", "with_defaults", is_flag=True, help="All other settings too, as comments.")


@click.group(name="recipe")
def recipe_() -> None:
    """Recipes: named settings for runs and adaptations."""


@recipe_.command(name="list")
def list_() -> None:
    """List all recipes: what each is, costs and gives."""
    Console(highlight=False).print(recipe_list(installed()))


@recipe_.command()
@NAME
@ADAPT
@ALL
def show(name: str, adapt: bool, with_defaults: bool) -> None:
    """Print the recipe NAME as a commented file: its settings, what it costs and gives, and where it is from."""
    kind, offer = _find(name, adapt)
    click.echo(_file(kind, offer, name, with_defaults), nl=False)


@recipe_.command()
@NAME
@click.argument("file", type=PathName())
@ADAPT
@ALL
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def copy(name: str, file: Path, adapt: bool, with_defaults: bool, force: bool) -> None:
    """Write the recipe NAME to FILE, for you to change."""
    if file.suffix.lower() not in SUFFIXES:
        raise BonsaiError(f"{file} must end in {' or '.join(SUFFIXES)}: that tells a file from the name of a recipe.")
    there = file.exists() or file.is_symlink()
    if there and (not force or not file.is_file()):
        raise BonsaiError(f"{file} is there already. Name another file, or give --force to overwrite it.")
    kind, offer = _find(name, adapt)
    content = _file(kind, offer, str(file), with_defaults)
    try:
        write_atomically(file, content.encode())
    except OSError as error:
        raise BonsaiError(f"Cannot write {file}: {error.strerror}.") from None
    use = {"recipe": "run", "adaptation": "adapt RUN"}[kind]
    said = f"{'Overwrote' if there else 'Wrote'} {file}. Use it with: bonsai {use} --config {file}"
    Console(highlight=False).print(plain(said), soft_wrap=True)


def _find(name: str, adapt: bool) -> tuple[str, Offer]:
    kinds = kinds_of(name, installed())
    if adapt and "adaptation" not in kinds:
        raise BonsaiError(f"{name} is a recipe of a run alone; leave out --adapt.")
    if len(kinds) > 1 and not adapt:
        print_note(Console(stderr=True), f"{name} is a recipe of an adaptation too, which --adapt chooses.")
    kind = "adaptation" if adapt else kinds[0]
    return kind, next(offer for offer in installed().offers(kind) if offer.name == name)


def _file(kind: str, offer: Offer, use: str, with_defaults: bool) -> str:
    recipe = offered_recipes(installed(), kind)[offer.name]
    return recipe_file(recipe, kind, distribution_of(offer.source), use, with_defaults=with_defaults)
