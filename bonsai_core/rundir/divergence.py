"""KL to the dense model after a round, and what it says about the calibration text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NARROW = 100.0


def describe_narrowness(divergence: Mapping[str, Any]) -> str | None:
    """What to know where KL on the guard is far above that on held-out text; None where it is not."""
    held_out, guard = divergence.get("held_out"), divergence.get("guard")
    if held_out is None or guard is None or guard <= NARROW * held_out:
        return None
    return (
        f"KL to the dense model is {guard:.3f} on the guard (text of another kind), {held_out:.3f} on held-out text. "
        f"The calibration text is narrow, and the model loses what is not in it. Calibrate on more kinds of text, as "
        f"--dataset c4:0.7,mine.jsonl:0.3."
    )
