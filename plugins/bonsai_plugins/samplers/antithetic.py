"""The paper's sampler: perturbs the bottom of each site, and every draw comes with its complement."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest


class Antithetic(Sampler):
    """Per site: the top 1-2p is never perturbed, the rest is drawn by the prior, each draw with its complement.

    Dery et al. 2024, arXiv:2402.05406, section 3.1 and Algorithm 1. The window is 2p of what is alive, where p is this
    round's share of what is alive, so that window and cut always belong together. As in the paper, a site whose window
    rounds to nothing (a layer's 3 KV groups at p = 0.05) is not perturbed.

    Where we differ, by default: with far fewer sub-models than units in the windows, a regression over single units is
    mostly noise. Then whole windows are switched, half of the sites in a draw and the others in its complement, which
    leaves one unknown per site; inside a site the prior's order decides.
    """

    name: ClassVar[str] = "antithetic"
    level: Literal["auto", "unit", "site"] = Field(
        "auto",
        description="unit: half of each window goes (the paper); site: whole windows go; "
        "auto: unit once there are as many sub-models as units in the windows.",
    )

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        windows = _windows(request)
        by_unit = self.level == "unit"
        if self.level == "auto":
            by_unit = request.num_submodels >= sum(len(window) for window in windows)
        keep_MU = np.repeat(request.alive_U[None], request.num_submodels, axis=0)
        for first in range(0, request.num_submodels, 2):
            for window in windows:
                if by_unit:
                    count = (len(window) + int(rng.integers(2))) // 2  # of an odd window, either half may be larger
                    kept = _draw_by_weight(request.prior_U[window], count, rng)
                else:
                    kept = np.full(len(window), rng.random() < 0.5)
                keep_MU[first, window] = kept
                keep_MU[first + 1 : first + 2, window] = ~kept
        return Draw(keep_MU, np.arange(request.num_submodels) // 2)


def _windows(request: SampleRequest) -> list[NDArray[np.int64]]:
    """Per site, the units that may be perturbed: the least 2p by prior, none where that is less than one."""
    windows = []
    for site in request.table:
        ids = np.arange(site.first, site.first + site.num_units)[request.alive_U[site.units]]
        size = min(int(2 * request.drop_fraction * len(ids)), len(ids) - request.min_units)
        if size >= 1:
            windows.append(ids[np.argsort(request.prior_U[ids], kind="stable")[:size]])
    return windows


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
