"""The prior alone: no sub-model is measured."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.ranks import rank_fraction
from bonsai_plugins.standardised import standardised


class PriorOnly(Estimator):
    """Importance from the prior alone: the no-regression arm, and every one-shot baseline.

    With one round and the prior `wanda` this is one-shot Wanda with an equal cut per site; the paper's
    no-regression arm with more rounds. Dery et al. 2024, arXiv:2402.05406, section 4.3. Equal shares are equal under
    `--rank density`, the default. The allocation `standardised` is that of FLAP (An et al. 2023, arXiv:2312.11983,
    section 3.3), per unit where FLAP standardises channels, and is meant for `--rank importance`, as is `global`.
    """

    name: ClassVar[str] = "none"
    needs_measurements: ClassVar[bool] = False
    allocation: Literal["equal", "standardised", "global"] = Field(
        "equal",
        description="equal: every site loses the same share, its least units first; standardised: scores are compared "
        "across sites in standard deviations from their site's mean; global: as they are.",
    )

    def fit(self, measurements: Measurements) -> Fit:
        if self.allocation == "equal":
            return Fit(rank_fraction(measurements) * measurements.cost_U)
        if self.allocation == "standardised":
            return Fit(standardised(measurements.prior_U, measurements.site_U))
        return Fit(measurements.prior_U.copy())
