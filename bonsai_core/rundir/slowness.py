"""What to change where a pruned model is slower than the dense one on the device that it was made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALIGNED = 64
"""A width that is a multiple of this is fast on every device that was measured."""


def describe_slowness(latency: Mapping[str, Any] | None, round_to: Any) -> str | None:
    """What to know where the pruned model is slower by more than the spread; None where it is not, or not known.

    Args:
        latency: of a report.
        round_to: the setting.
    """
    phases = (latency or {}).get("phases") or {}
    slow = [f"{name} {_in_words(phase['speedup'])}" for name, phase in phases.items() if phase["speedup"]["high"] < 1]
    if not slow:
        return None
    aligned = round_to == "gpu" or (isinstance(round_to, int) and round_to % ALIGNED == 0)
    ways = [] if aligned else [f"widths that kernels like (--round-to {ALIGNED})"]
    ways += ["whole layers instead of parts of all (--units layer)", "a larger --sparsity"]
    return (
        f"The pruned model is slower than the dense one on this device: {'; '.join(slow)}. What helps: "
        f"{', '.join(ways[:-1])}, or {ways[-1]}. If other work shared the device, time it again: bonsai bench."
    )


def _in_words(speedup: Mapping[str, float]) -> str:
    return f"at {speedup['median']:.2f} of its speed ({speedup['low']:.2f} to {speedup['high']:.2f})"
