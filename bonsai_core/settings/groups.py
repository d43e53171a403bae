"""Under which heading help pages list a setting: ``json_schema_extra`` of its field, so that schemas have it too.

A field says ``json_schema_extra=HOW_MUCH``, or ``HOW_MUCH | FIRST`` if it is one of the few that people need first.
"""

from __future__ import annotations

from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

MODEL: JsonDict = {"group": "Model"}
HOW_MUCH: JsonDict = {"group": "How much"}
TEXT: JsonDict = {"group": "Text"}
METHODS: JsonDict = {"group": "Methods"}
EFFORT: JsonDict = {"group": "Effort"}
LIMITS: JsonDict = {"group": "Limits"}
TRAINING: JsonDict = {"group": "Training"}
TASKS: JsonDict = {"group": "Tasks"}
SPEED: JsonDict = {"group": "Speed"}
RESULT: JsonDict = {"group": "Result"}
MACHINE: JsonDict = {"group": "Machine"}
FIRST: JsonDict = {"first": True}

_IN_ORDER = (MODEL, HOW_MUCH, TEXT, METHODS, EFFORT, LIMITS, TRAINING, TASKS, SPEED, RESULT, MACHINE)
HEADINGS = tuple(str(group["group"]) for group in _IN_ORDER)
"""All headings, in the order of help pages."""


def heading(field: FieldInfo) -> str:
    """The heading of a setting, one of `HEADINGS`."""
    return str(_extra(field)["group"])


def is_first(field: FieldInfo) -> bool:
    """Whether people need the setting first."""
    return "first" in _extra(field)


def _extra(field: FieldInfo) -> JsonDict:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}
