"""Recipes by name: a YAML file, or one that a plugin offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_core.config import read_recipe
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.names import checked_name


def recipe_settings(name: str, registry: Registry, kind: str = "recipe") -> dict[str, Any]:
    """The settings of a recipe.

    Args:
        name: of a YAML file, or of a plugin's recipe.
        kind: ``recipe`` or ``adaptation``.

    Raises:
        BonsaiError: there is no such file, or no such name.
    """
    return read_recipe(Path(name)) if is_recipe_file(name) else dict(registry.recipe(name, kind))


def is_recipe_file(name: str) -> bool:
    """Whether a name means a file.

    Raises:
        BonsaiError: it is a name that neither a file nor a recipe can have.
    """
    path = Path(checked_name(name, "recipe"))
    return path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1 or path.exists()
