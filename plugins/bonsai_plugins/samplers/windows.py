"""Windows: the units of a round that may be perturbed, and pairs of complementary sub-models over them.

Shape legend: P pairs of sub-models, S sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Draw, SampleRequest

Level = Literal["auto", "unit", "site"]
LEVEL_HELP = (
    "unit: half of each window goes (the paper); site: whole windows go; "
    "auto: unit once there are as many sub-models as units in the windows."
)


IN_TURN_HELP = "Sites whose window is less than one unit, such as 3 KV groups, have one unit in some of the pairs."


@dataclass(frozen=True)
class Windows:
    """Which units each pair of sub-models may perturb.

    Attributes:
        units_S: candidates of some sites, the lowest prior first, int64 each.
        size_PS: how many of them a pair has in its window, int64 [P, S].
    """

    units_S: Sequence[NDArray[np.int64]]
    size_PS: NDArray[np.int64]

    @classmethod
    def of(cls, request: SampleRequest, rng: np.random.Generator, *, in_turn: bool) -> Windows:
        """The lowest 2p by prior of the living units of every kind.

        Every site gets its share, rounded down.

        Args:
            in_turn: whether a site with a share of less than one unit (of 3 KV groups, say) has a window of one unit in
                some of the pairs, so that the kind's total holds in each pair, and each site has its turn; else none.
        """
        table, num_pairs = request.table, (request.num_submodels + 1) // 2
        units_S = [_lowest_first(request, site.units) for site in table]
        count_S = np.array([len(units) for units in units_S], dtype=np.int64)
        share_S = np.minimum(2 * request.drop_fraction * count_S, np.maximum(0, count_S - request.minimum_S))
        size_PS = np.repeat(np.floor(share_S).astype(np.int64)[None], num_pairs, axis=0)
        rest_S, kind_S = np.round(share_S - size_PS[0], 9), np.array([site.kind for site in table])
        for kind in dict.fromkeys(kind_S) if in_turn else ():
            sometimes = np.flatnonzero((kind_S == kind) & (rest_S > 0) & (share_S < 1))
            size_PS[:, sometimes] += _in_turn(rest_S[sometimes], num_pairs, rng)
        return cls(units_S, size_PS)

    @property
    def num_units(self) -> int:
        """Units that are in the window of some pair."""
        return int(self.size_PS.max(axis=0, initial=0).sum())

    def of_pair(self, pair: int) -> list[NDArray[np.int64]]:
        """The windows of a pair, one for each site that has one."""
        return [units[:size] for units, size in zip(self.units_S, self.size_PS[pair], strict=True) if size]


def _lowest_first(request: SampleRequest, units: slice) -> NDArray[np.int64]:
    """The living units of a site, the lowest prior first."""
    ids = units.start + np.flatnonzero(request.alive_U[units])
    return np.asarray(ids[np.argsort(request.prior_U[ids], kind="stable")])


def _in_turn(rest_S: NDArray[np.float64], turns: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which sites round up in each turn, bool [turns, S]: in total as many as their rests add up to.

    The sites that are furthest behind their rests round up; ties are broken at random.
    """
    up = np.zeros((turns, len(rest_S)), dtype=bool)
    behind_S = np.zeros(len(rest_S))
    for up_S in up:
        behind_S = np.round(behind_S + rest_S, 9)  # so that equal sites tie
        count = int(behind_S.sum() + 0.5)
        up_S[np.lexsort((rng.random(len(rest_S)), -behind_S))[:count]] = True
        behind_S = behind_S - up_S
    return up


def antithetic_pairs(
    request: SampleRequest,
    windows: Windows,
    weight_U: NDArray[np.float64],
    level: Level,
    rng: np.random.Generator,
) -> Draw:
    """Sub-models that drop about half of their pair's windows, each with its complement, which drops the other half.

    Args:
        weight_U: units are kept in proportion to it at level ``unit``.
    """
    by_unit = level == "unit" or (level == "auto" and request.num_submodels >= windows.num_units)
    keep_MU = np.repeat(request.alive_U[None], request.num_submodels, axis=0)
    for pair, first in enumerate(range(0, request.num_submodels, 2)):
        for window in windows.of_pair(pair):
            if by_unit:
                count = (len(window) + int(rng.integers(2))) // 2  # of an odd window, either half may be larger
                kept = _draw_by_weight(weight_U[window], count, rng)
            else:
                kept = np.full(len(window), rng.random() < 0.5)
            keep_MU[first, window] = kept
            keep_MU[first + 1 : first + 2, window] = ~kept
    return Draw(keep_MU, np.arange(request.num_submodels) // 2)


def _draw_by_weight(weight: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """`count` of the entries, True = drawn, without replacement and in proportion to weight.

    Exponential races: Efraimidis and Spirakis 2006. Entries of weight zero come last, in random order.
    """
    race = rng.exponential(size=len(weight))
    with np.errstate(divide="ignore"):
        arrival = race / weight
    drawn = np.zeros(len(weight), dtype=bool)
    drawn[np.lexsort((race, arrival))[:count]] = True
    return drawn
