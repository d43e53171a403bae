"""Windows: the units of a round that may be perturbed, and pairs of complementary sub-models over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Draw, SampleRequest

Level = Literal["auto", "unit", "site"]
LEVEL_HELP = (
    "unit: half of each window goes (the paper); site: whole windows go; "
    "auto: unit once there are as many sub-models as units in the windows."
)


def windows_per_site(request: SampleRequest) -> list[NDArray[np.int64]]:
    """Per site, the lowest 2p of its living units by prior; none if that is less than one unit."""
    windows = []
    for site, minimum in zip(request.table, request.minimum_S, strict=True):
        ids = np.arange(site.first, site.first + site.num_units)[request.alive_U[site.units]]
        size = min(int(2 * request.drop_fraction * len(ids)), len(ids) - minimum)
        if size >= 1:
            windows.append(ids[np.argsort(request.prior_U[ids], kind="stable")[:size]])
    return windows


def antithetic_pairs(
    request: SampleRequest,
    windows: Sequence[NDArray[np.int64]],
    weight_U: NDArray[np.float64],
    level: Level,
    rng: np.random.Generator,
) -> Draw:
    """Sub-models that drop about half of the windows, each with its complement, which drops the other half.

    Args:
        weight_U: units are kept in proportion to it at level ``unit``.
    """
    by_unit = level == "unit" or (level == "auto" and request.num_submodels >= sum(map(len, windows)))
    keep_MU = np.repeat(request.alive_U[None], request.num_submodels, axis=0)
    for first in range(0, request.num_submodels, 2):
        for window in windows:
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
