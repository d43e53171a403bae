"""An option of the command line for each setting, and for each option of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.cli.help import Option
from bonsai_core.config import PluginChoice
from bonsai_core.registry.registry import KINDS, Registry
from bonsai_core.settings.common import Settings
from bonsai_core.settings.groups import heading, is_first

ALIASES = {"method": ("recover",), "runtimes": ("for",)}
LIMITS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}", "multiple_of": "a multiple of {}"}
WIDEST = 18
"""Of choices that stand beside an option; more of them stand in its help."""


def variables_of(schema: type[Settings]) -> str:
    """How the names of environment variables for its settings begin."""
    return "BONSAI_ADAPT_" if schema is AdaptConfig else "BONSAI_"


def setting_option(name: str, schema: type[Settings], registry: Callable[[], Registry], *, first: bool) -> Option:
    """The option of a setting.

    Args:
        first: list it with ``--help`` even if it is not one of those that people need first.
    """
    field = schema.model_fields[name]
    flags = [f"--{flag.replace('_', '-')}" for flag in (name, *ALIASES.get(name, ()))]
    metavar = None if field.annotation is bool else _metavar(name, field)

    def complete(context: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
        return offered(registry(), name, start)

    return Option(
        [*(flag if metavar else f"{flag}/--no-{flag[2:]}" for flag in flags), name],
        first=first or is_first(field),
        default=None,
        envvar=f"{variables_of(schema)}{name.upper()}",
        metavar=metavar,
        help=_help(field, metavar) if metavar else _flag_help(field, flags[0][2:]),
        shell_complete=complete if name in KINDS else None,
        panel=heading(field),
    )


def plugin_options(
    prefix: str, kind: str, name: str, item: Any, *, first: bool, variables: str = "BONSAI_"
) -> list[Option]:
    """An option, ``--PREFIX.OPTION``, for every option of a plugin; `variables` begins the names in the environment."""
    return [
        Option(
            [f"--{prefix}.{option.replace('_', '-')}", f"{prefix}__{option}"],
            first=first,
            default=None,
            envvar=f"{variables}{prefix.upper()}_{option.upper()}",
            metavar=_metavar(option, field),
            help=_help(field, _metavar(option, field), range_words(field.metadata)),
            panel=f"Options of the {kind} {name}",
        )
        for option, field in item.model_fields.items()
    ]


def offered(registry: Registry, kind: str, start: str) -> list[CompletionItem]:
    """Names of plugins for the shell."""
    return [CompletionItem(o.name, help=o.summary) for o in registry.offers(kind) if o.name.startswith(start)]


def default_words(field: FieldInfo) -> str:
    """The default as people write it; "" if there is none, or if the description says what happens then."""
    default = field.default
    if default in (None, (), "", PydanticUndefined):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        words = ",".join(map(str, default))
        # Settings that take several values split them at commas; options of plugins are YAML.
        return words if any(isinstance(each, BeforeValidator) for each in field.metadata) else f"[{words}]"
    return default.name if isinstance(default, PluginChoice) else str(default)


def choice_words(field: FieldInfo) -> str:
    """The words that a field takes, as ``a, b or c``; "" if it takes others too."""
    among: tuple[Any, ...] = getattr(field.annotation, "__args__", ())
    if not among or not all(isinstance(choice, str) for choice in among):
        return ""
    *others, last = among
    return f"{', '.join(others)} or {last}" if others else last


def range_words(metadata: Iterable[Any]) -> str:
    """The range of a field, of its metadata, as ``>= 1, <= 6``; "" if it has none."""
    limits = [limit for each in metadata for limit in getattr(each, "metadata", [each])]  # of a `Field`, those inside
    return ", ".join(
        words.format(value)
        for limit in limits
        for attribute, words in LIMITS.items()
        if (value := getattr(limit, attribute, None)) is not None
    )


def _help(field: FieldInfo, metavar: str | None, range_: str = "") -> str:
    default = f"default: {words}" if (words := default_words(field)) else ""
    notes = [note for note in (choice_words(field) if metavar == "NAME" else "", range_, default) if note]
    return f"{field.description or ''} [{'; '.join(notes)}]".strip() if notes else field.description or ""


def _flag_help(field: FieldInfo, name: str) -> str:
    description = field.description or ""
    return f"{description} [default; --no-{name} turns it off]" if field.default else description


def _metavar(name: str, field: FieldInfo) -> str:
    annotation = field.annotation
    among: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if type(None) in among:  # its first alternative says what it is
        annotation, among = getattr(among[0], "__origin__", among[0]), ()
    if annotation in (Path, bool):
        return "PATH" if annotation is Path else "true|false"
    if among and all(isinstance(choice, str) for choice in among):
        return words if len(words := "|".join(among)) <= WIDEST else "NAME"
    if name in KINDS:
        return "NAME"
    return {int: "N", float: "X"}.get(annotation, "TEXT") if isinstance(annotation, type) else "VALUE"
