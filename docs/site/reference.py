"""Pages of the reference that are made from the code: settings, and installed plugins with their options."""

from __future__ import annotations

import html
import inspect
import re
from typing import Any

from pydantic.fields import FieldInfo

from bonsai_core import AdaptConfig, BenchConfig, Component, EvalConfig, Recipe, Registry, RunConfig
from bonsai_core.cli.options import default_words
from bonsai_core.cli.plugin_page import takes
from bonsai_core.settings.groups import HEADINGS, heading

COMMANDS: dict[str, Any] = {"run": RunConfig, "adapt": AdaptConfig, "eval": EvalConfig, "bench": BenchConfig}
KINDS = {
    "prior": "Priors",
    "sampler": "Samplers",
    "metric": "Metrics",
    "estimator": "Estimators",
    "compensator": "Compensators",
    "exporter": "Exporters",
    "tracker": "Trackers",
}
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
        rows = [" | ".join([f"| `{one.name}`", *map(_cell, (one.summary, one.cost, one.gives))]) for one in recipes]
        head = "| name | what it is | costs | gives |\n| --- | --- | --- | --- |"
        parts.append("\n".join([f"## {title}\n", head, *(f"{row} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def _component(kind: str, component: type[Component]) -> list[str]:
    text = inspect.cleandoc(component.__doc__ or "")
    parts = [f"### {component.name} {{ #{kind}-{component.name} }}", _plain(text)]
    return [*parts, *_tables(component.model_fields)] if component.model_fields else parts


def _tables(fields: dict[str, FieldInfo]) -> list[str]:
    """A table for each heading of settings, in the order of help pages."""
    groups: dict[str, list[str]] = {}
    for name, field in fields.items():
        kind = "a plugin" if name in KINDS else _takes(field)
        default = f"`{words}`" if (words := default_words(field)) else "required" if field.is_required() else ""
        row = f"| `{name}` | {_cell(kind)} | {default} | {_cell(field.description or '')} |"
        groups.setdefault(heading(field) if field.json_schema_extra else "", []).append(row)
    head = "| setting | takes | default | |\n| --- | --- | --- | --- |\n"
    ordered = sorted(groups.items(), key=lambda group: HEADINGS.index(group[0]) if group[0] else 0)
    return [(f"### {title}\n\n" if title else "") + head + "\n".join(rows) for title, rows in ordered]


def _takes(field: FieldInfo) -> str:
    """What a setting takes, without bounds that nobody meets, and without what only its description can explain."""
    words = re.sub(r", <=? \d{5,}", "", takes(field)).split(" or ")
    return " or ".join(dict.fromkeys(word for word in words if not word.endswith("value")))


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Text of a docstring as Markdown: what reads as HTML or emphasis stays as it is written."""
    text = text.replace("``", "`")
    outside = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_\[\]])", r"\\\1", html.escape(part, quote=False))
        for part in outside
    )
