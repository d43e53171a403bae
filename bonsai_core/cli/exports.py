"""What `bonsai export` shows, and in what a checkpoint runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from bonsai_core.cli.printing import plain
from bonsai_core.pages.ways import Way
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.export import Exported
from bonsai_core.runtimes.ways import find_ways, outcome_of


def export_view(exported: Exported) -> RenderableType:
    """What was written, whether it is the model, and how to run it."""
    outcome = outcome_of(exported)
    lines = [f"wrote {exported.path}", *([outcome] if outcome else [])]
    lines += [f"pushed to {exported.pushed}"] if exported.pushed else []
    lines += ["run it with:", *(f"    {command}" for command in exported.commands)]
    return Group(*map(plain, lines))


def runtime_view(run: Path, registry: Registry) -> RenderableType:
    """In which runtimes the checkpoint of a run runs, with the commands, and in which it does not, and why.

    Raises:
        BonsaiError: there is no checkpoint, or it or the record of what was exported is damaged.
    """
    ways = find_ways(run, registry)
    lines = _section("It runs in", [way for way in ways if way.refusal is None])
    lines += _section("It does not run in", [way for way in ways if way.refusal is not None])
    return Group(Text(""), *map(plain, lines))


def _section(title: str, ways: Sequence[Way]) -> list[str]:
    width = max((len(way.runtime) for way in ways), default=0)
    lines = [title] if ways else []
    for way in ways:
        needs = f"needs first: {way.needs}" if way.needs else ""
        texts = [text for text in (needs, *way.commands, way.outcome, way.refusal) if text]
        lines += [f"  {way.runtime if number == 0 else '':<{width}}  {text}" for number, text in enumerate(texts)]
    return lines
