"""Timing of models that take turns, so that a machine whose speed changes is fair to all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WARM_UP = 1
PHASES = ("prefill", "decode")
Side = Callable[[int], Sequence[float]]
"""Runs once, and returns the seconds of each phase; it is told which turn it is, from 0, so that all do the same."""


def take_turns(sides: Sequence[Side], repeats: int) -> NDArray[np.float64]:
    """Seconds, float64 [sides, repeats, phases]; in every other turn the order is reversed.

    Args:
        repeats: how often each is timed, after a warm-up.
    """
    turns: list[list[Sequence[float]]] = [[] for _ in sides]
    for turn in range(WARM_UP + repeats):
        for number in range(len(sides))[:: -1 if turn % 2 else 1]:
            turns[number].append(sides[number](turn))
    return np.array(turns, dtype=np.float64)[:, WARM_UP:]


def spread(values: NDArray[np.float64]) -> dict[str, float]:
    """The median, and the quartiles as ``low`` and ``high``."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high}


def speed(seconds_RP: NDArray[np.float64], batch: int, prompt_tokens: int) -> dict[str, Any]:
    """How fast a model is.

    Args:
        seconds_RP: to the first token, and for each further one of all sequences, float64 [repeats, 2].

    Returns:
        ``prefill_s`` and ``decode_s``, medians of these; ``prefill_spread_s`` and ``decode_spread_s``, see `spread`;
        ``prefill_tokens_per_s`` and ``decode_tokens_per_s``, of the whole batch at these medians.
    """
    spreads = {phase: spread(seconds_RP[:, number]) for number, phase in enumerate(PHASES)}
    medians = {phase: spreads[phase]["median"] for phase in PHASES}
    return {
        **{f"{phase}_s": medians[phase] for phase in PHASES},
        **{f"{phase}_spread_s": spreads[phase] for phase in PHASES},
        "prefill_tokens_per_s": batch * prompt_tokens / medians["prefill"],
        "decode_tokens_per_s": batch / medians["decode"],
    }


def speedup(dense_RP: NDArray[np.float64], pruned_RP: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """By phase, how many times as fast as the dense model a pruned one is: ratios of the same turn, see `spread`."""
    return {phase: spread(dense_RP[:, number] / pruned_RP[:, number]) for number, phase in enumerate(PHASES)}
