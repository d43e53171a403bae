"""Recipes by name: a YAML file, or one that a plugin offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from bonsai_core.contracts import Recipe
from bonsai_core.errors import UnknownNameError
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.recipe_files import is_recipe_file, read_recipe

RECIPE_KINDS = ("recipe", "adaptation")
"""Of a run, and of an adaptation."""


def recipe_settings(name: str, registry: Registry, kind: str = "recipe", *, folder: Path = Path()) -> dict[str, Any]:
    """The settings of a recipe.

    Args:
        name: of a YAML file, relative to `folder`, or of a plugin's recipe.
        kind: ``recipe`` or ``adaptation``.

    Raises:
        BonsaiError: there is no such file, or no such name.
    """
    return read_recipe(folder / name) if is_recipe_file(name, folder) else dict(registry.recipe(name, kind))


def offered_recipes(registry: Registry, kind: str) -> dict[str, Recipe]:
    """The recipes that plugins offer, by name."""
    return {offer.name: cast(Recipe, offer.item) for offer in registry.offers(kind)}


def kinds_of(name: str, registry: Registry) -> list[str]:
    """Whether a name is that of a run's recipe, of an adaptation's, or of both.

    Raises:
        UnknownNameError: it is neither.
    """
    names = {kind: offered_recipes(registry, kind) for kind in RECIPE_KINDS}
    found = [kind for kind in RECIPE_KINDS if name in names[kind]]
    if not found:
        raise UnknownNameError("recipe", name, {name for kind in RECIPE_KINDS for name in names[kind]})
    return found
