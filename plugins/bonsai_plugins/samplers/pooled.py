"""One distribution over all sites: a site that the prior finds cheap is perturbed more."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import LEVEL_HELP, Level, antithetic_pairs


class Pooled(Sampler):
    """Units of all sites in one pool, ordered by their prior standardised within each site.

    The window is the least 2p of all living parameters, wherever they lie, and its units are kept in proportion to the
    softmax of the standardised priors; each draw comes with its complement. After the global variant of the authors'
    later work on the method of Dery et al. 2024, arXiv:2402.05406.
    """

    name: ClassVar[str] = "global"
    level: Level = Field("auto", description=LEVEL_HELP)

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        standard_U = _standardised(request)
        window = _window(request, standard_U)
        site = request.table.site_U[window]
        windows = [window[site == number] for number in np.unique(site)]
        weight_U = np.exp(standard_U - standard_U.max())
        return antithetic_pairs(request, windows, weight_U, self.level, rng)


def _standardised(request: SampleRequest) -> NDArray[np.float64]:
    """Each living unit's prior in standard deviations from its site's mean; 0 for the dead."""
    standard_U = np.zeros(len(request.table))
    for site in request.table:
        alive = request.alive_U[site.units]
        prior = request.prior_U[site.units][alive]
        if len(prior) and prior.std() > 0:
            standard_U[site.units][alive] = (prior - prior.mean()) / prior.std()
    return standard_U


def _window(request: SampleRequest, standard_U: NDArray[np.float64]) -> NDArray[np.int64]:
    """The least units by standardised prior whose parameters make up 2p of the living ones, in that order.

    Units of which a site may not lose any more are passed over.
    """
    order = np.lexsort((np.arange(len(standard_U)), standard_U))
    order = order[request.alive_U[order]]
    site = request.table.site_U[order]
    position = np.empty(len(order), dtype=np.int64)
    for number in np.unique(site):
        here = site == number
        position[here] = np.arange(here.sum())
    alive_S = np.bincount(site, minlength=len(request.table.sites))
    order = order[position < alive_S[site] - request.min_units]
    cost = request.table.cost_U[order].cumsum()
    return np.asarray(order[cost <= 2 * request.drop_fraction * request.table.cost_U[request.alive_U].sum()])
