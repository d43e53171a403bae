"""The settings of a run as people read them, and the command that repeats it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_core.errors import shortened
from bonsai_core.settings.common import Settings

LONGEST_COMMAND = 4_000
MOST_UNKNOWN = 50
"""Settings of other versions that are shown."""


@dataclass(frozen=True)
class Setting:
    """One setting: what it was in the run, and what it is where nobody sets it."""

    name: str
    value: str
    default: str
    differs: bool


def settings_of(config: Mapping[str, Any], schema: type[Settings]) -> list[Setting]:
    """All settings of a run, in the order in which people read them.

    Args:
        config: of its report; what an earlier version did not have is left out.
    """
    defaults = schema.defaults()
    unknown = [name for name in config if name not in defaults][:MOST_UNKNOWN]
    names = [*(name for name in defaults if name in config), *unknown]
    return [
        Setting(name, written(config[name]), written(defaults.get(name)), config[name] != defaults.get(name))
        for name in names
    ]


def command_of(config: Mapping[str, Any], schema: type[Settings], *words: str) -> str:
    """The command that repeats a run exactly, anywhere: only what differs from the defaults.

    Args:
        words: the command's first words, as ``bonsai run``.

    Returns:
        The command, or "" if it is too long for a page.
    """
    defaults = schema.defaults()
    options = [
        option
        for name, default in defaults.items()
        if config.get(name) is not None and config[name] != default
        for option in _options(name, config[name])
    ]
    command = " ".join([*words, *options])
    return command if len(command) <= LONGEST_COMMAND else ""


def written(value: Any) -> str:
    """A setting's value as users type it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return shortened(",".join(map(str, value))) or "none"
    if isinstance(value, dict):
        name = [str(value["name"])] if "name" in value else []
        return shortened(" ".join([*name, *(f"{key}={item}" for key, item in value.items() if key != "name")]))
    return shortened(str(value))


def _options(name: str, value: Any) -> list[str]:
    """The options that set it, ready for a shell."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [f"{flag} {shlex.quote(','.join(map(str, value)))}"]
    if not isinstance(value, dict):
        return [f"{flag} {shlex.quote(str(value))}"]
    if "name" not in value:  # a limit by kind of unit
        return [f"{flag} {shlex.quote(','.join(f'{key}={item}' for key, item in value.items()))}"]
    own = [(f"{flag}.{key.replace('_', '-')}", item) for key, item in value.items() if key != "name"]
    texts = [(option, item if isinstance(item, str) else json.dumps(item)) for option, item in own]
    return [f"{flag} {shlex.quote(str(value['name']))}", *(f"{option} {shlex.quote(text)}" for option, text in texts)]
