"""What a run was calibrated on, in words, and whether that text repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bonsai_core.errors import shortened

REPETITIVE = 0.18
"""Compressed bytes (zlib) per character of the windows that were drawn.

On 76 windows of 256 tokens (SmolLM2's), Python's documentation and its source code had 0.33, WikiText-2 0.39, questions
and answers 0.33, chats 0.31, messages of programs in ten languages 0.35 (French) to 0.75 (Chinese), short chats under
one long system prompt 0.20. Sentences in which only names, numbers or nouns change had 0.13 and 0.17, one page again
and again 0.03; on 500 windows, records of JSON had 0.17. With fewer windows it is higher.
"""


def describe_text(calibration: Mapping[str, Any] | None) -> str | None:
    """What the text was, in one line; None for a report of an earlier version, which does not say how much was drawn.

    Args:
        calibration: that section of a report.
    """
    if calibration is None or calibration.get("windows") is None:
        return None
    parts = calibration.get("parts") or [{"name": calibration["name"]}]
    kinds = calibration.get("kinds") or [""] * len(parts)
    names = []
    for part, kind in zip(parts, kinds, strict=False):
        share = f" {part['share']:.0%}" if "share" in part else ""
        names.append(f"{shortened(part['name'])}{share}{' (chats)' if kind == 'chat' else ''}")
    windows, wanted = calibration["windows"], calibration.get("windows_wanted") or 0
    number = f"{windows:,} of the {wanted:,} windows asked for, each" if windows < wanted else f"{windows:,} windows"
    return (
        f"calibrated on {', '.join(names)}: {number} of {calibration['sequence_length']:,} tokens, out of "
        f"{calibration['characters']:,} characters"
    )


def describe_repetition(calibration: Mapping[str, Any] | None) -> str | None:
    """What to know where the calibration text repeats itself; None where it does not, or it is not known."""
    density = (calibration or {}).get("compressed_bytes_per_character")
    if density is None or density >= REPETITIVE:
        return None
    return (
        f"The calibration text repeats itself: it compresses to {density:.2f} bytes per character, where prose and "
        "code have 0.3 or more. What the model knows besides may be lost. Mix in other text, as --dataset "
        "c4:0.7,mine.jsonl:0.3."
    )
