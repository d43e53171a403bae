"""The prior alone: no sub-model is measured."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bonsai_core import Estimator, Fit, Measurements


class PriorOnly(Estimator):
    """Importance from the prior's order alone: every site loses the same share, its least units first.

    With one round and the prior `wanda` this is one-shot Wanda with an equal cut per site; the paper's
    no-regression arm with more rounds. Dery et al. 2024, arXiv:2402.05406, section 4.3.
    """

    name: ClassVar[str] = "none"
    needs_measurements: ClassVar[bool] = False

    def fit(self, measurements: Measurements) -> Fit:
        importance_U = np.empty(len(measurements.prior_U))
        for site in np.unique(measurements.site_U):
            ids = np.flatnonzero(measurements.site_U == site)
            order = ids[np.argsort(measurements.prior_U[ids], kind="stable")]
            importance_U[order] = (1 + np.arange(len(ids))) / len(ids) * measurements.cost_U[ids]
        return Fit(importance_U)
