"""The few numbers that a reader looks for first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_core.pages.verdict import loss_of, speedups
from bonsai_core.pages.words import count, megabytes, number, percent


@dataclass(frozen=True)
class Tile:
    """A number, what it is, and what it was before."""

    label: str
    value: str
    note: str


def tiles(report: Mapping[str, Any], adapted: Mapping[str, Any] | None) -> list[Tile]:
    """Quality, size and speed of the result, beside those of the dense model."""
    perplexity, parameters, weights = report["perplexity"], report["parameters"], report["weight_bytes"]
    found = [Tile("perplexity", number(perplexity["pruned"]), f"dense {number(perplexity['dense'])}{_times(report)}")]
    if adapted is not None:
        before, after = adapted["perplexity"]["before"], adapted["perplexity"]["after"]
        found.append(Tile("after adaptation", number(after), f"before it {number(before)}"))
    kept = parameters["pruned"] / parameters["dense"] if parameters["dense"] else 1.0
    found.append(Tile("parameters", count(parameters["pruned"]), f"{percent(kept)} of {count(parameters['dense'])}"))
    found.append(Tile("weights", megabytes(weights["pruned"]), f"dense {megabytes(weights['dense'])}"))
    for phase, times in speedups(report["latency"]).items():
        spread = f" ({times['low']:.2f} to {times['high']:.2f})" if times["low"] < times["high"] else ""
        found.append(Tile(f"{phase} speed", f"x {times['median']:.2f}", f"of the dense model's{spread}"))
    return found


def _times(report: Mapping[str, Any]) -> str:
    loss = loss_of(report)
    return "" if loss is None else f", x {loss:.2f}"
