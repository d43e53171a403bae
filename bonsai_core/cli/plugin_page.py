"""The page of one plugin: what it is, where it comes from, its options, what it goes with, and how to use it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bonsai_core.cli.options import choice_words, default_words, range_words
from bonsai_core.cli.printing import name, plain
from bonsai_core.config import PluginChoice, RunConfig
from bonsai_core.contracts import Compensator, Component, Estimator, Exporter, Family, Metric, Recipe, Sampler
from bonsai_core.registry.family_table import family_rows
from bonsai_core.registry.registry import COMPONENTS, Offer, Registry, distribution_of

FAMILY_FACTS = ("models", "model types", "units, free", "units, uniform", "note")
"""What follows the name in a row of `family_rows`."""
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def plugin_page(offer: Offer, registry: Registry) -> RenderableType:
    """All that a plugin says about itself, and what the others say about it."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    for label, text in (*_facts(offer, registry), ("example", _example(offer)), ("check", _check(offer))):
        if text:
            facts.add_row(label, plain(text, lines=True))
    head = Text.assemble((offer.kind, "bold"), " ", name(offer.name))
    return Group(head, Text(""), *_description(offer), facts, *_options(offer))


def _description(offer: Offer) -> Iterator[Text]:
    whole = inspect.cleandoc(offer.item.__doc__ or "") if isinstance(offer.item, type) else offer.summary
    for paragraph in whole.split("\n\n"):
        flows = not any(line.startswith(" ") for line in paragraph.splitlines())
        yield plain(" ".join(paragraph.splitlines()) if flows else paragraph, lines=True)
        yield Text("")


def _facts(offer: Offer, registry: Registry) -> Iterator[tuple[str, str]]:
    item = offer.item
    yield "from", origin(offer)
    papers = dict.fromkeys(ARXIV.findall(f"{item.__doc__ if isinstance(item, type) else ''} {offer.summary}"))
    if papers:
        yield "papers", "\n".join(f"https://arxiv.org/abs/{paper}" for paper in papers)
    if isinstance(item, Family):
        (row,) = family_rows([item])
        yield from zip(FAMILY_FACTS, row[1:], strict=True)
    elif isinstance(item, Recipe):
        yield "settings", yaml.safe_dump(item.settings, sort_keys=False).strip() or "all defaults"
    else:
        base = next(base for base in COMPONENTS[offer.kind] if issubclass(item, base))
        yield "inherits", f"{base.__name__}: {base.summary()}"
        yield "goes with", "\n".join(_goes_with(item, registry)) or "all plugins of the other kinds"
        yield "chosen by", "\n".join(_chosen_by(offer, registry))


def origin(offer: Offer) -> str:
    """The distribution that a plugin comes with, its version, and the module of its class."""
    distribution = distribution_of(offer.source)
    try:
        distribution = f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        distribution = offer.source
    return f"{distribution}, {offer.item.__module__}" if isinstance(offer.item, type) else distribution


def _goes_with(item: type[Component], registry: Registry) -> Iterator[str]:
    """What else has to be chosen, or cannot be, as the classes of the plugins say."""
    if issubclass(item, Sampler) and item.sequential:
        yield f"estimators that know how sure they are: {_names(registry, 'estimator', 'gives_spread')}"
    if issubclass(item, Estimator) and item.gives_spread:
        yield f"samplers that ask how sure it is, too: {_names(registry, 'sampler', 'sequential')}"
    if issubclass(item, Estimator) and not item.needs_measurements:
        yield "the prior alone: no sub-model is measured, so sampler and metric are not used"
    if issubclass(item, Metric) and item.reads == "choices":
        yield "questions: --metric-dataset FILE.jsonl, rows of question, choices, gold"
    if issubclass(item, Metric) and item.needs_dense:
        yield "the dense model: its predictions are kept for the whole run"
    if issubclass(item, Compensator):
        yield from (
            words
            for holds, words in (
                (item.changes_weights, "every kind of shapes: it changes the weights that are kept"),
                (item.adds_bias, "shapes free: it adds biases, which most stock checkpoints have no place for"),
                (not (item.changes_weights or item.adds_bias), "everything: it changes nothing"),
            )
            if holds
        )
    if issubclass(item, Exporter):
        yield f"{item.runtime}: --for {item.runtime}, {'a file ' + item.suffix if item.suffix else 'a directory'}"
        yield f"{'can' if item.runner else 'cannot'} be loaded there with --verify and `bonsai bench`"
        if not item.takes_adapted:
            yield "pruned checkpoints only: not those that were trained afterwards"


def _names(registry: Registry, kind: str, attribute: str) -> str:
    return (
        ", ".join(each.name for each in registry.offers(kind) if getattr(each.item, attribute)) or "none is installed"
    )


def _chosen_by(offer: Offer, registry: Registry) -> Iterator[str]:
    """The default, and the recipes that name it."""
    default = RunConfig.model_fields[offer.kind].default if offer.kind in RunConfig.model_fields else None
    if isinstance(default, PluginChoice) and default.name == offer.name:
        yield "the default of `bonsai run`"
    for recipe in registry.offers("recipe"):
        assert isinstance(recipe.item, Recipe)
        chosen = recipe.item.settings.get(offer.kind)
        if (chosen.get("name") if isinstance(chosen, dict) else chosen) == offer.name:
            yield f"the recipe {recipe.name}"


def _example(offer: Offer) -> str:
    item = offer.item
    if isinstance(item, Recipe):
        return f"bonsai {'adapt RUN' if offer.kind == 'adaptation' else 'run'} --config {offer.name}"
    if isinstance(item, Family):
        return f"bonsai run --model MODEL --slicer {offer.name}"
    if issubclass(item, Exporter):
        return f"bonsai export RUN --format {offer.name}"
    questions = " --metric-dataset FILE.jsonl" if issubclass(item, Metric) and item.reads == "choices" else ""
    option = next(_short_options(offer.kind, item), "")
    return f"bonsai run --{offer.kind} {offer.name}{option}{questions}"


def _short_options(kind: str, item: type[Component]) -> Iterator[str]:
    for option, field in item.model_fields.items():
        if (default := default_words(field)) and not isinstance(field.default, tuple):
            yield f" --{kind}.{option.replace('_', '-')} {default}"


def _check(offer: Offer) -> str:
    model = " --model MODEL" if isinstance(offer.item, Family) else ""
    return f"bonsai plugins --check {offer.kind}/{offer.name}{model}"


def _options(offer: Offer) -> Iterator[RenderableType]:
    if not isinstance(offer.item, type):
        return
    prefix = "format" if issubclass(offer.item, Exporter) else offer.kind
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold cyan", no_wrap=True)
    for option, field in offer.item.model_fields.items():
        default = f"; default: {words}" if (words := default_words(field)) else ""
        table.add_row(
            plain(f"--{prefix}.{option.replace('_', '-')}"),
            plain(f"{field.description or ''}\n({takes(field)}{default})", lines=True),
        )
    yield Text("")
    yield table if offer.item.model_fields else Text("It has no options.")


def takes(field: FieldInfo) -> str:
    """What an option takes, in words: its type and its range."""
    return choice_words(field) or " ".join([_type_words(field.annotation), range_words(field.metadata)]).strip()


def _type_words(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return f"{_type_words(get_args(annotation)[0])} {range_words(annotation.__metadata__)}".strip()
    if get_origin(annotation) is tuple:
        return f"several, each a {_type_words(get_args(annotation)[0])}"
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return " or ".join(map(_type_words, parts)) if parts else TYPES.get(annotation, "value")
