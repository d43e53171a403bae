"""Pages of the reference that are made from the code: settings, and installed plugins with their options."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bonsai_core import AdaptConfig, BenchConfig, Component, EvalConfig, Recipe, Registry, RunConfig

COMMANDS: dict[str, Any] = {"run": RunConfig, "adapt": AdaptConfig, "eval": EvalConfig, "bench": BenchConfig}
KINDS = {
    "prior": "Priors",
    "sampler": "Samplers",
    "metric": "Metrics",
    "estimator": "Estimators",
    "compensator": "Compensators",
    "exporter": "Exporters",
}
MEANT = 100_000
"""Larger bounds only keep nonsense out."""
RECIPES = {"recipe": "Recipes of runs", "adaptation": "Recipes of adaptations"}


def settings_page() -> str:
    """Every setting of every command, with type, default and description, in the order of ``--help``."""
    parts = [
        "# Settings",
        "Each setting is a field of a configuration class, a key of a recipe (`--config FILE.yaml`) and an option of "
        "its command: `eval_samples` is `--eval-samples`. This page is made from these classes.",
    ]
    for command, schema in COMMANDS.items():
        parts.append(f"## bonsai {command}\n\n`bonsai_core.{schema.__name__}`")
        parts.extend(_tables({name: schema.model_fields[name] for name in schema.names()}))
    return "\n\n".join(parts) + "\n"


def plugins_page() -> str:
    """Every built-in plugin: what it is, its source, its options."""
    registry = Registry()
    parts = [
        "# Installed plugins",
        "What comes with Bonsai, made from the classes. `bonsai plugins` lists yours as well.",
    ]
    for kind, title in KINDS.items():
        parts.append(f"## {title}")
        for offer in sorted(registry.offers(kind), key=lambda offer: offer.name):
            parts.extend(_component(kind, registry.component_class(kind, offer.name)))
    for kind, title in RECIPES.items():
        recipes = [offer.item for offer in registry.offers(kind) if isinstance(offer.item, Recipe)]
        rows = [f"| `{recipe.name}` | {_cell(recipe.summary)} |" for recipe in recipes]
        parts.append("\n".join([f"## {title}\n", "| name | what it is |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _component(kind: str, component: type[Component]) -> list[str]:
    text = inspect.cleandoc(component.__doc__ or "")
    parts = [f"### {component.name} {{ #{kind}-{component.name} }}", _plain(text)]
    return [*parts, *_tables(component.model_fields)] if component.model_fields else parts


def _tables(fields: dict[str, FieldInfo]) -> list[str]:
    """A table for each group of settings, in order."""
    groups: dict[str, list[str]] = {}
    for name, field in fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        row = f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |"
        groups.setdefault(str(extra.get("group", "")), []).append(row)
    head = "| setting | type | default | |\n| --- | --- | --- | --- |\n"
    return [
        (f"**{group[0].upper()}{group[1:]}**\n\n" if group else "") + head + "\n".join(rows)
        for group, rows in groups.items()
    ]


def _type(field: FieldInfo) -> str:
    """The type in the words of the JSON schema, with its range."""
    fields: dict[str, Any] = {"one": (field.annotation, field)}
    model = create_model("One", **fields)
    schema = model.model_json_schema()
    described = _described(schema["properties"]["one"], schema.get("$defs", {}))
    return _cell(described)


def _described(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return "plugin" if name == "PluginChoice" else _described(definitions[name], definitions)
    if "allOf" in schema:
        return _described(schema["allOf"][0], definitions)
    if "anyOf" in schema:
        kinds = [_described(one, definitions) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"integer": "whole number", "number": "number", "string": "text", "boolean": "yes or no"}.get(
        schema.get("type", ""), ""
    )
    if schema.get("type") == "array":
        return "list"
    if schema.get("type") == "object":
        return "by kind"
    return kind + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    """The range in words, without bounds that nobody meets."""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[key]:,g}" for key, word in words.items() if key in schema and schema[key] < MEANT]
    return f", {', '.join(limits)}" if limits else ""


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "required" if field.default_factory is None else ""
    if default is None or default == ():
        return ""
    if isinstance(default, BaseModel):
        return f"`{getattr(default, 'name', default)}`"
    if isinstance(default, tuple):
        return f"`{','.join(map(str, default))}`"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default}`"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Text of a docstring as Markdown: what reads as HTML or emphasis stays as it is written."""
    text = text.replace("``", "`")
    outside = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_\[\]])", r"\\\1", part) for part in outside)
