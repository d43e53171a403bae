"""Units that leave together, and which of two blocks leaves first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import final

import numpy as np
from numpy.typing import NDArray


class Tier(IntEnum):
    """What is known of a block; all blocks of a tier leave before those of the next."""

    MEASURED = 0
    """Leaves by importance. Where that ties, as the many zeros of a lasso do, chains lose equal shares, and wholes
    leave by mean prior."""
    UNMEASURED = 1
    """Chains lose equal shares. Where that ties, as it does for the few KV groups of each layer, the block with the
    lowest prior compared with its chain leaves first."""
    UNMEASURED_WHOLE = 2
    """Leaves by mean prior."""


@dataclass(frozen=True, order=True)
class Rank:
    """Where a block stands among all: the lowest leaves first.

    Attributes:
        value: what its tier compares first: importance (per unit or per parameter), share of the chain, or mean prior.
        tie_break: what its tier compares next.
        single: whether it is one of a site, which leave after wholes of the same rank.
        number: of its chain, or of the whole.
    """

    tier: Tier
    value: float
    tie_break: float
    single: bool
    number: int


@dataclass(frozen=True)
class Block:
    """Units that leave together.

    Attributes:
        cost: parameters that it frees.
        worth: what a selection gives up with it; infinite if it was not measured.
    """

    rank: Rank
    cost: int
    units: NDArray[np.int64]
    worth: float


@final
class SiteBlock(Block):
    """The next units of a chain."""


@final
class WholeBlock(Block):
    """What is left of a whole sub-layer or layer."""
