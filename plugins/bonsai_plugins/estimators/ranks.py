"""The prior's order within a site, as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Measurements


def rank_fraction(measurements: Measurements) -> NDArray[np.float64]:
    """Rank by prior within the site, as a fraction of its units: float64 [U] in (0, 1], 1 = highest."""
    fraction_U = np.empty(len(measurements.prior_U))
    for site in np.unique(measurements.site_U):
        ids = np.flatnonzero(measurements.site_U == site)
        order = ids[np.argsort(measurements.prior_U[ids], kind="stable")]
        fraction_U[order] = (1 + np.arange(len(ids))) / len(ids)
    return fraction_U


def rank_weight(measurements: Measurements) -> NDArray[np.float64]:
    """Rank by prior within the site, relative to the site's mean rank: float64 [U] in (0, 2), larger = higher prior."""
    site_U = np.unique(measurements.site_U, return_inverse=True)[1]
    fraction_U = rank_fraction(measurements)
    return np.asarray(fraction_U / (np.bincount(site_U, fraction_U) / np.bincount(site_U))[site_U])


def site_share(measurements: Measurements) -> NDArray[np.float64]:
    """Each unit's share of the parameters of its site's measured units: float64 [U], 1 in total per site."""
    site_U = np.unique(measurements.site_U, return_inverse=True)[1]
    return np.asarray(measurements.cost_U / np.bincount(site_U, measurements.cost_U)[site_U])
