"""What was removed, layer by layer and kind by kind, as the cells of a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bonsai_core.pages.render import Table
from bonsai_core.pages.words import percent

MOST_LAYERS = 400
MOST_KINDS = 12


@dataclass(frozen=True)
class Cell:
    """One layer's units of a kind: the share that was removed, as a percentage of the largest one in the map, and how
    many are kept in words; None and "" where it has none."""

    shade: int | None
    words: str


@dataclass(frozen=True)
class Strip:
    """One kind of unit in all layers."""

    kind: str
    summary: str
    cells: Sequence[Cell]


def strips(layers: Sequence[Mapping[str, Any]]) -> list[Strip]:
    """A strip for each kind of unit, of the first layers of a very deep model."""
    shown = layers[:MOST_LAYERS]
    kinds, most = _kinds(layers), largest(layers)
    return [_strip(kind, [layer.get(kind) for layer in shown], most) for kind in kinds]


def largest(layers: Sequence[Mapping[str, Any]]) -> float:
    """The largest share that a layer shown has lost of its units of a kind, 0 to 1."""
    kinds = _kinds(layers)
    return max([0.0, *(_removed(layer.get(kind)) or 0.0 for layer in layers[:MOST_LAYERS] for kind in kinds)])


def ticks(layers: Sequence[Mapping[str, Any]]) -> list[int]:
    """The layers that are named beneath the strips: about six, evenly spaced."""
    number = min(len(layers), MOST_LAYERS)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if number <= 7 * step or step == 100)
    return list(range(0, number, step))


def table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Units kept of those there were, a row for each layer."""
    shown = layers[:MOST_LAYERS]
    kinds = _kinds(layers)
    cells = [[_count(layer.get(kind)) for kind in kinds] for layer in shown]
    return Table(["layer", *(f"{kind}, kept" for kind in kinds)], [[str(n), *row] for n, row in enumerate(cells)])


def _kinds(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The kinds of unit that are shown."""
    return list(dict.fromkeys(kind for layer in layers[:MOST_LAYERS] for kind in layer))[:MOST_KINDS]


def _removed(units: Mapping[str, int] | None) -> float | None:
    return 1 - units["kept"] / units["dense"] if units and units["dense"] else None


def _strip(kind: str, counts: Sequence[Mapping[str, int] | None], most: float) -> Strip:
    removed = [_removed(units) for units in counts]
    cells = [
        Cell(None, "")
        if fraction is None
        else Cell(round(100 * fraction / (most or 1)), f"layer {n}: {_count(units)} {kind} kept")
        for n, (fraction, units) in enumerate(zip(removed, counts, strict=True))
    ]
    known = [fraction for fraction in removed if fraction is not None] or [0.0]
    dense, kept = (sum(units[name] for units in counts if units) for name in ("dense", "kept"))
    total = 1 - kept / dense if dense else 0.0
    gone = sum(fraction == 1 for fraction in known)
    summary = f"{percent(total)} removed" if total else "none removed"
    if total and min(known) < max(known):
        summary += f", {percent(min(known))} to {percent(max(known))} by layer"
    summary += f", all of it in {gone} {'layer' if gone == 1 else 'layers'}" if gone else ""
    return Strip(kind, summary, cells)


def _count(units: Mapping[str, int] | None) -> str:
    return f"{units['kept']:,} of {units['dense']:,}" if units else ""
