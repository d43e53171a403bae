"""Scores of different sites, made comparable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def standardised(prior_U: NDArray[np.float64], site_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each unit's prior in standard deviations from its site's mean, float64 [U]; 0 where a site's are all the same."""
    standard_U = np.zeros(len(prior_U))
    for site in np.unique(site_U):
        here = site_U == site
        if np.ptp(prior_U[here]) > 0:
            standard_U[here] = (prior_U[here] - prior_U[here].mean()) / prior_U[here].std()
    return standard_U
