"""The paper's sampler: draws near the bottom of each site, each with its complement."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Draw, Sampler, SampleRequest


class Antithetic(Sampler):
    """Per site: the top 1-2p is never perturbed, half of the rest is drawn by the prior, the complement comes along.

    Dery et al. 2024, arXiv:2402.05406, section 3.1 and Algorithm 1. The window is 2p of what is alive where p is this
    round's share of what is alive, so window and cut always belong together.

    A site too small for a window of two (a layer's 3 KV groups at p = 0.05, say) would never be perturbed.
    Such a site gets a window of its two least units, and takes part in just so many of the pairs that it loses p
    on average.
    """

    name: ClassVar[str] = "antithetic"

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        num_pairs = -(-request.num_submodels // 2)
        drawn_PU = np.repeat(request.alive_U[None], num_pairs, axis=0)
        complement_PU = drawn_PU.copy()
        for site in request.table:
            ids = np.arange(site.first, site.first + site.num_units)[request.alive_U[site.units]]
            window, share = _window(len(ids), request.drop_fraction, request.min_units)
            if window == 0:
                continue
            least = ids[np.argsort(request.prior_U[ids], kind="stable")[:window]]
            for pair in np.flatnonzero(rng.random(num_pairs) < share):
                kept = _draw_by_weight(request.prior_U[least], window // 2, rng)
                drawn_PU[pair, least[~kept]] = False
                complement_PU[pair, least[kept]] = False
        keep_MU = np.stack([drawn_PU, complement_PU], axis=1).reshape(2 * num_pairs, -1)[: request.num_submodels]
        return Draw(keep_MU, np.arange(request.num_submodels) // 2)


def _window(num_alive: int, drop_fraction: float, min_units: int) -> tuple[int, float]:
    """(units that may be perturbed, an even number; share of the pairs in which they are)."""
    wanted = 2 * drop_fraction * num_alive
    largest = min(num_alive, 2 * (num_alive - min_units))  # half of the window goes at once
    window = min(2 * int(wanted / 2), largest // 2 * 2)
    if window >= 2:
        return window, 1.0
    return (2, wanted / 2) if largest >= 2 else (0, 0.0)


def _draw_by_weight(weight: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """`count` of the entries, True = drawn, without replacement and in proportion to weight.

    Exponential races: Efraimidis and Spirakis 2006. Entries of weight zero come last, in random order.
    """
    with np.errstate(divide="ignore"):
        arrival = rng.exponential(size=len(weight)) / weight
    order = np.lexsort((rng.random(len(weight)), arrival))
    drawn = np.zeros(len(weight), dtype=bool)
    drawn[order[:count]] = True
    return drawn
