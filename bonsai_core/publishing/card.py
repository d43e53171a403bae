"""The model card of a checkpoint: README.md, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.config import RunConfig
from bonsai_core.display.printable import visible
from bonsai_core.publishing.facts import Facts, Origin
from bonsai_core.publishing.names import hub_datasets, hub_model, published_settings
from bonsai_core.publishing.results import Results, code
from bonsai_core.settings.common import Settings

CARD_NAME = "README.md"
PLACEHOLDER = "MODEL"
"""What commands call the checkpoint until it has a name."""
RELATION = "finetune"
"""Of the relations that the hub knows (adapter, merge, quantized, finetune), the nearest to pruned; a tag says that."""
STEPS = ("prior", "sampler", "metric", "estimator", "compensator")
TEMPLATE = Path(__file__).with_name("card.md")


@dataclass(frozen=True)
class Loading:
    """How a runtime loads the checkpoint: commands; `exported` says whether the first of them writes another format."""

    runtime: str
    commands: Sequence[str]
    exported: bool = False


def render_card(
    facts: Facts, loading: Sequence[Loading], name: str = PLACEHOLDER, *, library: str | None = "transformers"
) -> str:
    """The text of the card. It holds no path, and no figure that no report has.

    Args:
        loading: what runs it, with commands that call it `name`.
        name: on the hub.
        library: that loads it, as the hub calls it; None if that does not show in the files.
    """
    from jinja2 import Environment, StrictUndefined  # listings do without

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"code": code, "block": _block}
    origin = facts.origin
    written = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front=yaml.safe_dump(front_matter(origin, library), sort_keys=False, allow_unicode=True),
        origin=origin,
        results=Results(facts),
        steps={step: _plugin(origin.config[step]) for step in STEPS if step in origin.config},
        loading=loading,
        library=library,
        name=name,
        placeholder=name == PLACEHOLDER,
        recipe=_recipe(origin.config, RunConfig),
        adaptation=_recipe(origin.adaptation.config, AdaptConfig) if origin.adaptation else None,
    )
    return visible(written, lines=True)


def front_matter(origin: Origin, library: str | None) -> dict[str, Any]:
    """The card's metadata."""
    base, adaptation = hub_model(origin.base_model), origin.adaptation
    texts = [settings.get("dataset") for settings in (origin.config, adaptation.config if adaptation else {})]
    datasets = list(dict.fromkeys(found for text in texts if isinstance(text, str) for found in hub_datasets(text)))
    return {
        **({"base_model": base, "base_model_relation": RELATION} if base else {}),
        **origin.stated_license,
        **({"library_name": library} if library else {}),
        "pipeline_tag": "text-generation",
        "tags": ["bonsai", "pruned", "structured-pruning", *(["distillation"] if adaptation else [])],
        **({"datasets": datasets} if datasets else {}),
    }


def _plugin(chosen: Any) -> str:
    """The name of a plugin in settings."""
    return str(chosen.get("name") if isinstance(chosen, Mapping) else chosen)


def _recipe(settings: Mapping[str, Any], schema: type[Settings]) -> str:
    """The settings that differ from the defaults, as a recipe without paths."""
    defaults = schema.defaults()
    differ = {name: value for name, value in settings.items() if name in defaults and value != defaults[name]}
    return yaml.safe_dump(published_settings(differ), sort_keys=False, allow_unicode=True)


def _block(text: str) -> str:
    """Lines of others as an indented block of code, which nothing in them can end."""
    return "\n".join(f"    {line}" for line in text.rstrip("\n").splitlines())
