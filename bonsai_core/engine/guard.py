"""The guard: text of another kind than the calibration text, that decides nothing.

Nothing is fitted to it, so KL to the dense model on it tells whether what a repair gains on the calibration text is
lost elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.sources import BUILTIN, Text, holds_part_of, load_metric_text, windows_of


@dataclass(frozen=True)
class Guard:
    """Windows of the guard, int64 [windows, sequence], none where there is no guard; and where they are from."""

    windows_NT: NDArray[np.int64]
    text: Mapping[str, Any] | None


def draw_guard(
    config: RunConfig, calibration: Text, tokenizer: Any, warn: Callable[[str], None], start: int | None
) -> Guard:
    """The guard of a run, drawn by its seed.

    Args:
        calibration: what the run calibrates on.
        start: a token that every window begins with.

    Raises:
        BonsaiError: the text cannot be read, is shorter than one window, or is the calibration text itself.
    """
    nothing = Guard(np.empty((0, config.sequence_length), dtype=np.int64), None)
    if not config.guard_samples or config.guard_dataset == "none":
        return nothing
    text = _other_text(config.guard_dataset, calibration)
    if text is None:
        warn("All texts that could guard are calibrated on, so there is no guard. Name one with --guard-dataset.")
        return nothing
    windows_NT = windows_of(
        text,
        tokenizer,
        num_windows=config.guard_samples,
        sequence_length=config.sequence_length,
        seed=config.seed,
        what="guard",
        warn=warn,
        start=start,
    )
    return Guard(windows_NT, text.describe())


def _other_text(named: str | None, calibration: Text) -> Text | None:
    for name in (named,) if named else BUILTIN:  # which need no network
        text = load_metric_text(name)
        if not holds_part_of(text, calibration) and not holds_part_of(calibration, text):
            return text
    if named is None:
        return None
    raise BonsaiError(
        f"The guard is text of another kind than the calibration text, but {named} is in that or holds it. Name "
        f"another text with --guard-dataset, or none."
    )
