"""Options of `bonsai run`: the fields of RunConfig, then the fields of the chosen plugins, all validated by pydantic.

Parsing has two phases, because the chosen plugins decide which options exist: first their names are looked up in the
arguments, the environment and the recipe; then each chosen plugin's fields are added.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import rich_click as click
from click.shell_completion import CompletionItem
from pydantic import ValidationError

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.cli.help import Command, Option, more_option
from bonsai_core.cli.options import offered, plugin_options, setting_option, variables_of
from bonsai_core.config import BUDGETS, PluginChoice, RunConfig
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.recipes import recipe_settings
from bonsai_core.registry.registry import COMPONENTS, Registry
from bonsai_core.settings.common import Settings
from bonsai_core.settings.names import checked_name
from bonsai_core.settings.strict_yaml import parse


@cache
def installed() -> Registry:
    """The installed plugins, loaded once per process."""
    return Registry()


class SettingsCommand(Command):
    """A command with an option per setting and per option of the chosen plugins.

    Args:
        fields: names of the configuration's fields to offer, all of them on the first page; None: all but the command's
            arguments.
        schema: the configuration.
    """

    def __init__(
        self, *args: Any, fields: Sequence[str] | None = None, schema: type[Settings] = RunConfig, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        given = {parameter.name for parameter in self.params}
        names = [name for name in schema.names() if name not in given] if fields is None else fields
        options = [setting_option(name, schema, installed, first=fields is not None) for name in names]
        self._kinds = [kind for kind in COMPONENTS if kind in names]
        self._recipes = "adaptation" if schema is AdaptConfig else "recipe"
        self._variables = variables_of(schema)
        more = [] if all(option.first for option in options) else [more_option(plugins=bool(self._kinds))]
        self._own = [*options, *self.params, *more]
        self.params = self._own

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        self.params = [*self._own, *_options_of_chosen(args, self._kinds, self._recipes, self._variables)]
        return super().make_context(info_name, args, parent, **extra)


class FormatCommand(Command):
    """A command with an option, ``--format.NAME``, for each option of the exporter that ``--format`` chooses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = self.params

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        name = (_value_of("format", args) or "").partition(":")[0]
        offers = {offer.name: offer.item for offer in installed().offers("exporter")}
        chosen = plugin_options("format", "exporter", name, offers[name], first=True) if name in offers else []
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
    return RunConfig.from_mapping(_with_given(merged, given), "settings")


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
    return AdaptConfig.from_mapping(_with_given(merged, given), "settings")


def _with_given(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings with what was given instead, options of plugins included."""
    merged = dict(recipe)
    for name, value in given.items():
        # A plugin that the recipe chose already keeps its options.
        same = name in COMPONENTS and merged.get(name) is not None and _choice(name, merged).name == value
        if "__" not in name and not same:
            merged[name] = value
    for name, text in given.items():
        if "__" in name:
            kind, option = name.split("__", 1)
            chosen = _choice(kind, merged)
            merged[kind] = {"name": chosen.name, **chosen.options, option: _parsed(chosen, kind, option, text)}
    return merged


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


def _options_of_chosen(args: list[str], kinds: list[str], recipes: str, variables: str) -> list[Option]:
    """The options of the chosen plugins; those of a plugin that is named in the arguments are on the first page."""
    recipe = _value_of("config", args, variables)
    try:
        values = recipe_settings(recipe, installed(), recipes) if recipe else {}
    except BonsaiError:
        values = {}  # reported when the settings are read
    options = []
    for kind in kinds:
        given = _value_of(kind, args, variables)
        default = None if values.get(kind, RunConfig.model_fields[kind].default) is None else _choice(kind, values).name
        name = given or default
        offers = {offer.name: offer.item for offer in installed().offers(kind)}
        if name not in offers:
            continue  # none is chosen; or it is reported by the engine, with what is available
        options += plugin_options(kind, kind, name, offers[name], first=given is not None, variables=variables)
    return options


def _value_of(name: str, args: list[str], variables: str = "BONSAI_") -> str | None:
    """The value that arguments or environment give an option, before real parsing."""
    value = os.environ.get(f"{variables}{name.upper()}")
    flag = f"--{name}"
    for word, after in itertools.zip_longest(args, args[1:]):
        if word.startswith(flag + "="):
            value = word.split("=", 1)[1]
        elif word == flag and after is not None:
            value = after
    return value


def complete_recipes(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Named recipes of a kind, then files."""
    return lambda context, parameter, start: [
        *offered(installed(), kind, start),
        CompletionItem(start, type="file"),
    ]
