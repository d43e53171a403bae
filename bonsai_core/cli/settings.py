"""Options of `bonsai run`: the fields of RunConfig, then the fields of the chosen plugins, all validated by pydantic.

Parsing has two phases, because the chosen plugins decide which options exist: first their names are looked up in the
arguments, the environment and the recipe; then each chosen plugin's fields are added.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.config import BUDGETS, PluginChoice, RunConfig
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.recipes import recipe_settings
from bonsai_core.registry.registry import COMPONENTS, KINDS, Registry
from bonsai_core.settings.common import Settings
from bonsai_core.settings.names import checked_name
from bonsai_core.settings.strict_yaml import parse

ALIASES = {"method": ("recover",), "runtimes": ("for",)}


@cache
def installed() -> Registry:
    """The installed plugins, loaded once per process."""
    return Registry()


class SettingsCommand(click.RichCommand):
    """A command with an option per setting and per option of the chosen plugins.

    Args:
        fields: names of the configuration's fields to offer; None: all but the command's arguments.
        schema: the configuration.
    """

    def __init__(
        self, *args: Any, fields: Sequence[str] | None = None, schema: type[Settings] = RunConfig, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        given = {parameter.name for parameter in self.params}
        names = [name for name in schema.names() if name not in given] if fields is None else fields
        self._own = [*(_field_option(name, schema) for name in names), *self.params]
        self._kinds = [kind for kind in COMPONENTS if kind in names]
        self.params = self._own

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        self.params = [*self._own, *_plugin_options(args, self._kinds)]
        return super().make_context(info_name, args, parent, **extra)


class FormatCommand(click.RichCommand):
    """A command with an option, ``--format.NAME``, for each option of the exporter that ``--format`` chooses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = self.params

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        name = (_value_of("format", args) or "").partition(":")[0]
        offers = {offer.name: offer.item for offer in installed().offers("exporter")}
        chosen = _options_of("format", "exporter", name, offers[name]) if name in offers else []
        self.params = [*self._own, *chosen]
        return super().make_context(info_name, args, parent, **extra)


class PathName(click.ParamType[Path]):
    """A file or folder that a command is given."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(checked_name(str(value)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def settings(values: dict[str, Any], recipe: str | None) -> RunConfig:
    """The configuration: recipe, then environment, then options, each overriding the one before.

    Raises:
        BonsaiError: a value is refused; the message names the setting.
    """
    given = {name: value for name, value in values.items() if value is not None}
    merged = recipe_settings(recipe, installed()) if recipe is not None else {}
    if any(name in given for name in BUDGETS):  # whichever budget the recipe has, this one is instead of it
        merged = {name: value for name, value in merged.items() if name not in BUDGETS}
    for name, value in given.items():
        # A plugin that the recipe chose already keeps its options.
        same = name in COMPONENTS and name in merged and _choice(name, merged).name == value
        if "__" not in name and not same:
            merged[name] = value
    for name, text in given.items():
        if "__" in name:
            kind, option = name.split("__", 1)
            chosen = _choice(kind, merged)
            merged[kind] = {"name": chosen.name, **chosen.options, option: _parsed(chosen, kind, option, text)}
    return RunConfig.from_mapping(merged, "settings")


def format_options(format: str, values: dict[str, Any]) -> dict[str, Any]:
    """The options of an exporter that were given as ``--format.NAME``.

    Raises:
        BonsaiError: a value cannot be read.
    """
    chosen = PluginChoice(name=format.partition(":")[0])
    given = {name.removeprefix("format__"): text for name, text in values.items() if text is not None}
    return {name: _parsed(chosen, "exporter", name, text) for name, text in given.items()}


def adapt_settings(values: dict[str, Any], recipe: str | None) -> AdaptConfig:
    """The configuration of an adaptation: recipe, then environment, then options.

    Raises:
        BonsaiError: a value is refused; the message names the setting.
    """
    given = {name: value for name, value in values.items() if value is not None}
    merged = recipe_settings(recipe, installed(), "adaptation") if recipe is not None else {}
    return AdaptConfig.from_mapping({**merged, **given}, "settings")


def _choice(kind: str, values: dict[str, Any]) -> PluginChoice:
    """The plugin that a recipe chooses, or the default."""
    try:
        return PluginChoice.model_validate(values.get(kind, RunConfig.model_fields[kind].default))
    except ValidationError:
        raise BonsaiError(
            f"{kind}: {shown(values[kind])} chooses no plugin. Write a name, or name and options: "
            f"{kind}: {{name: NAME, OPTION: VALUE}}."
        ) from None


def _parsed(chosen: PluginChoice, kind: str, option: str, text: str) -> Any:
    field = installed().component_class(kind, chosen.name).model_fields[option]
    try:
        return text if field.annotation is str else parse(text)
    except ValueError:
        raise BonsaiError(
            f"--{kind}.{option.replace('_', '-')}: {shown(text)} is not a value that YAML can read."
        ) from None


def _field_option(name: str, schema: type[Settings]) -> click.RichOption:
    field = schema.model_fields[name]
    flags = [f"--{flag.replace('_', '-')}" for flag in (name, *ALIASES.get(name, ()))]
    is_flag = field.annotation is bool
    prefix = "BONSAI_ADAPT_" if schema is AdaptConfig else "BONSAI_"
    return click.RichOption(
        [*(f"{flag}/--no-{flag[2:]}" if is_flag else flag for flag in flags), name],
        default=None,
        envvar=f"{prefix}{name.upper()}",
        metavar=None if is_flag else _metavar(name, field),
        help=_help(field),
        shell_complete=(lambda context, parameter, start: _offered(name, start)) if name in KINDS else None,
        panel="Plugins" if name in KINDS else "Settings",
    )


def _plugin_options(args: list[str], kinds: list[str]) -> list[click.RichOption]:
    recipe = _value_of("config", args)
    try:
        values = recipe_settings(recipe, installed()) if recipe else {}
    except BonsaiError:
        values = {}  # reported when the settings are read
    options = []
    for kind in kinds:
        name = _value_of(kind, args) or _choice(kind, values).name
        offers = {offer.name: offer.item for offer in installed().offers(kind)}
        if name not in offers:
            continue  # reported by the engine, with what is available
        options += _options_of(kind, kind, name, offers[name])
    return options


def _options_of(prefix: str, kind: str, name: str, item: Any) -> list[click.RichOption]:
    """An option for every field of a plugin."""
    return [
        click.RichOption(
            [f"--{prefix}.{option.replace('_', '-')}", f"{prefix}__{option}"],
            default=None,
            envvar=f"BONSAI_{prefix.upper()}_{option.upper()}",
            metavar=_metavar(option, field),
            help=_help(field),
            panel=f"Options of the {kind} {name}",
        )
        for option, field in item.model_fields.items()
    ]


def _value_of(name: str, args: list[str]) -> str | None:
    """The value that arguments or environment give an option, before real parsing."""
    value = os.environ.get(f"BONSAI_{name.upper()}")
    flag = f"--{name}"
    for word, after in itertools.zip_longest(args, args[1:]):
        if word.startswith(flag + "="):
            value = word.split("=", 1)[1]
        elif word == flag and after is not None:
            value = after
    return value


def _help(field: FieldInfo) -> str:
    default = field.default
    if default in (None, (), "", PydanticUndefined):
        return field.description or ""
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    words = default.name if isinstance(default, PluginChoice) else default
    return f"{field.description or ''} [default: {words}]".strip()


def _metavar(name: str, field: FieldInfo) -> str:
    annotation = field.annotation
    choices: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if type(None) in choices:  # its first alternative says what it is
        annotation, choices = getattr(choices[0], "__origin__", choices[0]), ()
    if annotation is Path:
        return "PATH"
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if name in KINDS:
        return "NAME"
    return {int: "N", float: "X"}.get(annotation, "TEXT") if isinstance(annotation, type) else "VALUE"


def complete_recipes(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Named recipes of a kind, then files."""
    return lambda context, parameter, start: [*_offered(kind, start), CompletionItem(start, type="file")]


def _offered(kind: str, start: str) -> list[CompletionItem]:
    return [CompletionItem(o.name, help=o.summary) for o in installed().offers(kind) if o.name.startswith(start)]
