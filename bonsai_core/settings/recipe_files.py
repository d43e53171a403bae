"""Recipes as files: how to tell one from the name of a plugin's recipe, how to read it, and how to write one."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from bonsai_core.display.printable import visible
from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.settings.common import Settings
from bonsai_core.settings.names import checked_name
from bonsai_core.settings.strict_yaml import parse

LARGEST_RECIPE = 2**16  # bytes
WIDTH = 79  # of a line of comment
SUFFIXES = (".yaml", ".yml")


def is_recipe_file(name: str, folder: Path = Path()) -> bool:
    """Whether a name means a file, relative to `folder`, rather than a plugin's recipe.

    Raises:
        BonsaiError: it is a name that neither a file nor a recipe can have.
    """
    path = Path(checked_name(name, "recipe"))
    return path.suffix.lower() in SUFFIXES or len(path.parts) > 1 or (folder / path).is_file()


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file as a mapping of field names to values; one with comments alone is empty.

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
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BonsaiError(f"The recipe {path} must be a mapping of settings, like `sparsity: 0.2`.")
    return values


def recipe_text(
    config: Settings, chosen: Collection[str], heading: Iterable[str], *, with_defaults: bool = False
) -> str:
    """Settings of a configuration as a recipe file, each below what it means.

    Args:
        chosen: names of the settings that the file has; the others keep their defaults.
        heading: paragraphs of comment at the top.
        with_defaults: the others follow as comments, with their values.
    """
    lines = [line for paragraph in heading for line in _comment(paragraph)]
    names = [name for name in config.names() if not type(config).model_fields[name].is_required() or name in chosen]
    for name in (name for name in names if name in chosen):
        lines += ["", *_comment(_meaning(config, name)), _dumped(config, name)]
    if with_defaults:
        lines += ["", *_comment("The other settings, with their defaults:")]
        for name in (name for name in names if name not in chosen):
            dumped = [f"# {line}" for line in _dumped(config, name).splitlines()]
            lines += ["", *_comment(_meaning(config, name)), *dumped]
    return "\n".join(lines) + "\n"


def _meaning(config: Settings, name: str) -> str:
    return type(config).model_fields[name].description or name


def _dumped(config: Settings, name: str) -> str:
    return yaml.safe_dump({name: config.model_dump(mode="json")[name]}, sort_keys=False).rstrip("\n")


def _comment(paragraph: str) -> Iterator[str]:
    """A paragraph as lines of comment: no character of it can end one."""
    for line in visible(paragraph, lines=True).split("\n"):
        wrapped = textwrap.wrap(line, WIDTH - 2, break_long_words=False, break_on_hyphens=False, subsequent_indent="  ")
        yield from (f"# {part}".rstrip() for part in wrapped or [""])


def _content(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe would block, and a device may never end
        raise BonsaiError(f"The recipe {path} is not a file. Give a YAML file, or the name of a recipe.")
    with path.open("rb") as file:
        data = file.read(LARGEST_RECIPE + 1)
    if len(data) > LARGEST_RECIPE:
        raise BonsaiError(f"The recipe {path} is larger than {LARGEST_RECIPE:,} bytes, which no recipe needs.")
    return data.decode("utf-8-sig")
