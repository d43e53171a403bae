"""Recipes as files: how to tell one from the name of a plugin's recipe, and how to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.settings.names import checked_name
from bonsai_core.settings.strict_yaml import parse

LARGEST_RECIPE = 2**16  # bytes


def is_recipe_file(name: str, folder: Path = Path()) -> bool:
    """Whether a name means a file, relative to `folder`, rather than a plugin's recipe.

    Raises:
        BonsaiError: it is a name that neither a file nor a recipe can have.
    """
    path = Path(checked_name(name, "recipe"))
    return path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1 or (folder / path).is_file()


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file as a mapping of field names to values.

    Raises:
        BonsaiError: the file is missing, too large for a recipe, not YAML as recipes use it, or not a mapping.
    """
    checked_name(str(path), "recipe")
    try:
        values = parse(_content(path))
    except OSError as error:
        raise BonsaiError(f"Cannot read the recipe {path}: {error.strerror}.") from None
    except ValueError as error:  # of the decoder too, where it is not UTF-8
        raise BonsaiError(f"The recipe {path} cannot be read as YAML in UTF-8: {shortened(str(error))}") from None
    if not isinstance(values, dict):
        raise BonsaiError(f"The recipe {path} must be a mapping of settings, like `sparsity: 0.2`.")
    return values


def _content(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe would block, and a device may never end
        raise BonsaiError(f"The recipe {path} is not a file. Give a YAML file, or the name of a recipe.")
    with path.open("rb") as file:
        data = file.read(LARGEST_RECIPE + 1)
    if len(data) > LARGEST_RECIPE:
        raise BonsaiError(f"The recipe {path} is larger than {LARGEST_RECIPE:,} bytes, which no recipe needs.")
    return data.decode("utf-8-sig")
