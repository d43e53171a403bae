"""Where the time of a run or an adaptation went, and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_core.display.durations import duration
from bonsai_core.pages.words import megabytes, percent

MOST_STAGES = 40


@dataclass(frozen=True)
class Stage:
    """A stage, what it took, and its share of the whole in percent."""

    name: str
    took: str
    share: float
    share_words: str


@dataclass(frozen=True)
class Costs:
    """The stages, longest first, and a sentence on the whole."""

    summary: str
    stages: list[Stage]


def costs(report: Mapping[str, Any]) -> Costs:
    """From the report of a run or an adaptation."""
    seconds: Mapping[str, float] = report["seconds"]
    total = sum(seconds.values())
    longest = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))[:MOST_STAGES]
    stages = [
        Stage(name, duration(took), round(100 * took / total, 1), percent(took / total))
        for name, took in longest
        if total
    ]
    tokens = report.get("forward_tokens")
    work = f" for {tokens:,} tokens of forward passes" if isinstance(tokens, int) else ""
    peak = megabytes(report["memory"]["peak_bytes"])
    return Costs(f"{duration(total)} in all{work}; the memory of the process peaked at {peak}.", stages)
