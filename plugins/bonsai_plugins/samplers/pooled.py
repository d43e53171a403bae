"""One distribution over all sites: a site with low priors is perturbed more."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import LEVEL_HELP, Level, Windows, antithetic_pairs


class Pooled(Sampler):
    """Units of all sites in one pool, ordered by their prior standardised within each site.

    The window is the lowest 2p of all living parameters, in whatever sites, and its units are kept in proportion to the
    softmax of the standardised priors; each draw comes with its complement. After the global variant of the authors'
    later work on the method of Dery et al. 2024, arXiv:2402.05406.
    """

    name: ClassVar[str] = "global"
    level: Level = Field("auto", description=LEVEL_HELP)

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        alive_U, table = request.alive_U, request.table
        standard_U = np.zeros(len(table))
        standard_U[alive_U] = _standardised(request.prior_U[alive_U], table.site_U[alive_U])
        window = _window(request, standard_U)
        site = table.site_U[window]
        units_S = [window[site == number] for number in np.unique(site)]
        sizes = np.array([len(units) for units in units_S], dtype=np.int64)
        windows = Windows(units_S, np.repeat(sizes[None], (request.num_submodels + 1) // 2, axis=0))
        weight_U = np.exp(standard_U - standard_U.max())
        return antithetic_pairs(request, windows, weight_U, self.level, rng)


def _standardised(prior_U: NDArray[np.float64], site_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each unit's prior in standard deviations from its site's mean, float64 [U]; 0 if a site's are equal."""
    standard_U = np.zeros(len(prior_U))
    for site in np.unique(site_U):
        here = site_U == site
        if np.ptp(prior_U[here]) > 0:
            standard_U[here] = (prior_U[here] - prior_U[here].mean()) / prior_U[here].std()
    return standard_U


def _window(request: SampleRequest, standard_U: NDArray[np.float64]) -> NDArray[np.int64]:
    """The lowest units by standardised prior whose parameters make up 2p of the living ones, in that order.

    Units that a site must keep are skipped.
    """
    ids = np.flatnonzero(request.alive_U)
    site = request.table.site_U[ids]
    # A unit's relative position in its site, 0..1: if priors tie, all sites give the same share.
    height = np.empty(len(ids))
    position = np.empty(len(ids), dtype=np.int64)
    for number in np.unique(site):
        here = np.flatnonzero(site == number)
        here = here[np.argsort(standard_U[ids[here]], kind="stable")]
        position[here] = np.arange(len(here))
        height[here] = position[here] / len(here)
    order = np.lexsort((ids, height, standard_U[ids]))
    alive_S = np.bincount(site, minlength=len(request.table.sites))
    order = order[position[order] < (alive_S - request.minimum_S)[site[order]]]
    cost = request.table.cost_U[ids[order]].cumsum()
    return np.asarray(ids[order[cost <= 2 * request.drop_fraction * request.table.cost_U[ids].sum()]])
