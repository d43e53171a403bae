"""The licence of a model, as its files say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

README = "README.md"
LICENCES = ("LICEN[SC]E*", "licen[sc]e*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Patterns of the names of files that go along with the weights."""
LONGEST_README = 100_000
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_VALID = {
    "license": re.compile(r"[\w.-]{1,64}", re.ASCII),
    "license_name": re.compile(r"[\w. -]{1,96}", re.ASCII),
    "license_link": re.compile(r"LICEN[SC]E[\w.-]{0,32}|https://[\w./%-]{1,300}", re.ASCII),
}
"""Of the keys of a model card, what may be repeated as it is."""


def stated_licence(directory: Path) -> dict[str, str]:
    """What the model card in a directory says of the licence, under the hub's keys; empty where it does not say."""
    file = directory / README
    try:
        with file.open(encoding="utf-8") as opened:
            front = _FRONT.match(opened.read(LONGEST_README))
        values: Any = yaml.safe_load(front[1]) if front else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # it only serves the card
        return {}
    return repeatable(values) if isinstance(values, dict) else {}


def repeatable(values: Mapping[Any, Any]) -> dict[str, str]:
    """What of the keys of a model card states a licence, and may be repeated as it is."""
    return {key: values[key] for key, valid in _VALID.items() if _matches(valid, values.get(key))}


def _matches(valid: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and valid.fullmatch(value) is not None
