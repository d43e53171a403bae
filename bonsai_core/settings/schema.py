"""The base of all settings, of runs and of plugins: frozen, without unknown names, and numbers are numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bonsai_core.errors import shortened, shown

MAX_FAULTS = 10


class Schema(BaseModel):
    """Base of configurations and of plugins' options.

    YAML reads ``yes`` and ``on`` as true, and pydantic would take true for 1: it is refused where a number is wanted.
    So are infinite numbers and NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, values: Any) -> Any:
        given = values if isinstance(values, dict) else {}
        for name, field in cls.model_fields.items():
            if _has_booleans(given.get(name)) and _only_numbers(field.annotation):
                raise ValueError(f"{name} takes numbers, and true or false is not one (got {shown(given[name])})")
        return values


def describe_faults(error: ValidationError, describe: Callable[[Any, str], str]) -> str:
    """What pydantic found wrong, as lines of a message: the first `MAX_FAULTS`.

    Args:
        describe: makes a sentence of one of pydantic's rows, and of words that say what is wrong with which value.
    """
    rows = error.errors(include_url=False)
    lines = [describe(row, _in_words(row)) for row in rows[:MAX_FAULTS]]
    return "\n".join([*lines, *([f"... and {len(rows) - MAX_FAULTS:,} more."] if len(rows) > MAX_FAULTS else [])])


def where(row: Any) -> str:
    """The setting that one of pydantic's rows is about; empty if it is about how several fit together."""
    return shortened(".".join(str(part) for part in row["loc"] if part not in ("*", "**", "***", "[key]")))


def _in_words(row: Any) -> str:
    message = shortened(row["msg"].removeprefix("Value error, "), 2000).removesuffix(".")
    return f"{message} (got {shown(row['input'])})." if row["loc"] else f"{message}."


def _has_booleans(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(part, bool) for part in parts)


def _only_numbers(annotation: Any) -> bool:
    """Whether a field's values are numbers, alone or in a list or mapping."""
    types = _types(annotation)
    return (int in types or float in types) and bool not in types


def _types(annotation: Any) -> list[Any]:
    """All types that an annotation is built from."""
    parts = get_args(annotation)
    return [inner for part in parts for inner in _types(part)] if parts else [annotation]
