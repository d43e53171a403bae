"""The prior alone: no sub-model is measured."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.ranks import rank_fraction


class PriorOnly(Estimator):
    """Importance from the prior alone, for one-shot baselines and comparisons without regression.

    With one round and the prior `wanda` this is one-shot Wanda with an equal cut per site; with more, the no-regression
    arm of Dery et al. 2024, arXiv:2402.05406, section 4.3. Shares are equal with `--rank density`, the default;
    `global` is meant for `--rank importance` and for priors whose scores can be compared across sites.
    """

    name: ClassVar[str] = "none"
    needs_measurements: ClassVar[bool] = False
    allocation: Literal["equal", "global"] = Field(
        "equal",
        description="equal: every site loses the same share, its lowest units first; global: scores are compared "
        "across sites as they are.",
    )

    def fit(self, measurements: Measurements) -> Fit:
        if self.allocation == "equal":
            return Fit(rank_fraction(measurements) * measurements.cost_U)
        return Fit(measurements.prior_U.copy())
