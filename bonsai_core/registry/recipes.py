"""Recipes by name: a YAML file, or one that a plugin offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_core.registry.registry import Registry
from bonsai_core.settings.recipe_files import is_recipe_file, read_recipe


def recipe_settings(name: str, registry: Registry, kind: str = "recipe", *, folder: Path = Path()) -> dict[str, Any]:
    """The settings of a recipe.

    Args:
        name: of a YAML file, relative to `folder`, or of a plugin's recipe.
        kind: ``recipe`` or ``adaptation``.

    Raises:
        BonsaiError: there is no such file, or no such name.
    """
    return read_recipe(folder / name) if is_recipe_file(name, folder) else dict(registry.recipe(name, kind))
