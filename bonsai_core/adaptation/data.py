"""Which windows of the text are trained on, in which order: the seed alone decides, so that a run can be resumed.

Legend for array shapes: W = windows of the text, S = windows in the order they are trained on, L = tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.ranks import Ranks
from bonsai_core.errors import BonsaiError

MOST_WINDOWS = 10**8
"""In all steps; their order is held in memory."""


@dataclass(frozen=True)
class Schedule:
    """All that will be trained on.

    Attributes:
        windows_WL: the windows that are used, int64.
        order_S: the index of the window at each position of the schedule, batch after batch.
        steps: optimiser steps.
    """

    windows_WL: NDArray[np.int64]
    order_S: NDArray[np.int64]
    steps: int

    @property
    def epochs(self) -> float:
        """How often each window is seen."""
        return len(self.order_S) / len(self.windows_WL)


def windows_wanted(config: AdaptConfig) -> int | None:
    """How many windows all steps take; None if that is the whole text, once."""
    if config.steps is not None:
        return config.steps * config.batch_size
    if config.tokens is not None:
        return math.ceil(config.tokens / (config.batch_size * config.sequence_length)) * config.batch_size
    return None


def plan_schedule(windows_WL: NDArray[np.int64], config: AdaptConfig) -> Schedule:
    """Every epoch takes all windows in another random order; the last step may begin a new one.

    Raises:
        BonsaiError: it has too many windows.
    """
    per_step = config.batch_size
    steps = math.ceil((windows_wanted(config) or len(windows_WL)) / per_step)
    size = steps * per_step
    if size > MOST_WINDOWS:
        raise BonsaiError(
            f"{steps:,} steps of {per_step:,} windows are more than {MOST_WINDOWS:,} windows: give fewer --steps or "
            f"--tokens."
        )
    epochs = math.ceil(size / len(windows_WL))
    seeds = ((config.seed, epoch) for epoch in range(epochs))
    order_S = np.concatenate([np.random.default_rng(seed).permutation(len(windows_WL)) for seed in seeds])[:size]
    used, renumbered_S = np.unique(order_S, return_inverse=True)
    return Schedule(windows_WL[used], renumbered_S, steps)


class Windows(IterableDataset[dict[str, Tensor]]):
    """The windows of one rank, from some step on, for the Trainer: of every step's, consecutive ones.

    Args:
        first: the number of steps that are done.
    """

    def __init__(self, schedule: Schedule, first: int, ranks: Ranks) -> None:
        self._schedule = schedule
        order = schedule.order_S.reshape(schedule.steps, ranks.count, -1)
        self._order = order[first:, ranks.number].reshape(-1)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for window in self._order:
            yield {"input_ids": torch.from_numpy(self._schedule.windows_WL[window]), "window": torch.tensor(window)}
