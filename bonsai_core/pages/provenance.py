"""Where the numbers of a page come from: the evaluation text, and the versions of packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def measured_with(report: Mapping[str, Any], text: str, windows: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What perplexity was measured on, and with which versions, as names and words.

    Args:
        report: of a run or an adaptation.
        text: the name of the evaluation text.
        windows: their number, ``windows``, and their tokens, ``sequence_length``.
    """
    number, length = windows["windows"], windows["sequence_length"]
    facts = [("Perplexity on", f"{text}, {number:,} windows of {length:,} tokens")]
    versions = report.get("versions")
    if isinstance(versions, Mapping):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts
