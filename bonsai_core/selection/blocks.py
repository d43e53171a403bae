"""Units that leave together, and which of two blocks leaves first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Tier(IntEnum):
    """What is known of a block; all blocks of a tier leave before those of the next.

    Attributes:
        MEASURED: leaves by importance; where that ties, as the many zeros of a lasso do, chains lose equal shares, and
            wholes leave by mean prior.
        UNMEASURED: chains lose equal shares; where that ties, as it does for the few KV groups of each layer, the block
            that the prior likes least compared with its chain leaves first.
        UNMEASURED_WHOLE: leaves by mean prior.
    """

    MEASURED = 0
    UNMEASURED = 1
    UNMEASURED_WHOLE = 2


@dataclass(frozen=True, order=True)
class Rank:
    """Where a block stands among all: the lowest leaves first.

    Attributes:
        tier: what is known of the block.
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
class SiteBlock:
    """The next units of a chain.

    Attributes:
        worth: what a selection gives up with it; infinite if it was not measured.
        index: its number among all blocks of all chains.
    """

    rank: Rank
    cost: int
    units: NDArray[np.int64]
    worth: float
    index: int


@dataclass(frozen=True)
class WholeBlock:
    """What is left of a whole sub-layer or layer.

    Attributes:
        worth: what a selection gives up with it; infinite if it was not measured.
    """

    rank: Rank
    cost: int
    units: NDArray[np.int64]
    worth: float


Block = SiteBlock | WholeBlock
