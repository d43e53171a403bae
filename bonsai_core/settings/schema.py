"""What all settings are, those of runs and those of plugins: frozen, without unknown names, and numbers are numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bonsai_core.errors import shortened, shown

MOST_FAULTS = 10


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
            if _holds_truth(given.get(name)) and _only_numbers(field.annotation):
                raise ValueError(f"{name} takes numbers, and true or false is not one (got {shown(given[name])})")
        return values


def faults_told(error: ValidationError, told: Callable[[Any, str], str]) -> str:
    """What pydantic found wrong, as lines of a message: the first `MOST_FAULTS`.

    Args:
        told: the sentence for one of pydantic's rows; it is given the row, and what is wrong in words with the value
            behind them.
    """
    rows = error.errors(include_url=False)
    lines = [told(row, _in_words(row)) for row in rows[:MOST_FAULTS]]
    return "\n".join([*lines, *([f"... and {len(rows) - MOST_FAULTS:,} more."] if len(rows) > MOST_FAULTS else [])])


def where(row: Any) -> str:
    """The setting that a row of pydantic's is about; empty where it is about how several fit together."""
    return shortened(".".join(str(part) for part in row["loc"] if part not in ("*", "**", "[key]")))


def _in_words(row: Any) -> str:
    message = shortened(row["msg"].removeprefix("Value error, "), 2000).removesuffix(".")
    return f"{message} (got {shown(row['input'])})." if row["loc"] else f"{message}."


def _holds_truth(value: Any) -> bool:
    """Whether true or false is in a setting's value."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(part, bool) for part in parts)


def _only_numbers(annotation: Any) -> bool:
    """Whether a field's values are numbers, alone or in a list or mapping."""
    types = list(_types(annotation))
    return (int in types or float in types) and bool not in types


def _types(annotation: Any) -> list[Any]:
    """All that a type is put together from."""
    parts = get_args(annotation)
    return [annotation] if not parts else [found for part in parts for found in _types(part)]
