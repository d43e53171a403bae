"""KL to the dense model after a round, and what it says about the calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NARROW = 10.0
"""KL on the guard over that on held-out text.

A repair is fitted to the calibration text, so it is not 1 even where all is well. SmolLM2-135M-Instruct had 1.0
calibrated on Python's documentation (20 % removed, source code as the guard) and 3.9 on WikiText-2 (10 %, that
documentation as the guard), but 210 and 455 on texts that fill in one sentence again and again (10 %); one run each.
"""
HARMLESS = 0.1
"""Nats per token on the guard. Below that, little is lost there, whatever the ratio."""


def describe_narrowness(divergence: Mapping[str, Any]) -> str | None:
    """What to know where KL on the guard is far above that on held-out text; None where it is not, or not known."""
    held_out, guard = divergence.get("held_out"), divergence.get("guard")
    if held_out is None or guard is None or guard <= max(HARMLESS, NARROW * held_out):
        return None
    return (
        f"KL to the dense model is {guard:.3f} on the guard (text of another kind), {held_out:.3f} on held-out text. "
        f"The calibration text is narrow, and the model loses what is not in it. Calibrate on more kinds of text, as "
        f"--dataset c4:0.7,mine.jsonl:0.3."
    )
