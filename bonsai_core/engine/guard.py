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
from bonsai_core.sources import Text, load_metric_text, windows_of

SHIPPED = ("builtin", "builtin-code")
"""Texts of two kinds that need no network: the first that is not calibrated on is the guard unless one is named."""


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
    if not config.guard_samples or config.guard_dataset == "none":
        return Guard(np.empty((0, config.sequence_length), dtype=np.int64), None)
    name = config.guard_dataset or next(name for name in SHIPPED if name != calibration.name)
    text = load_metric_text(name)
    if text.contains(calibration) or calibration.contains(text):
        raise BonsaiError(
            f"--guard-dataset {name} holds the calibration text, or is in it. The guard is text of another kind: name "
            f"one, or leave it out for one that ships with Python."
        )
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
