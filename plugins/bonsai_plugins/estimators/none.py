"""The prior alone: no sub-model is measured."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements
from bonsai_plugins.estimators.ranks import rank_fraction


class PriorOnly(Estimator):
    """Importance from the prior alone: the no-regression arm, and every one-shot baseline.

    With one round and the prior `wanda` this is one-shot Wanda with an equal cut per site; the paper's
    no-regression arm with more rounds. Dery et al. 2024, arXiv:2402.05406, section 4.3. Equal shares are equal under
    `--rank density`, the default; `global` is meant for `--rank importance` and for priors whose scores can be compared
    across sites.
    """

    name: ClassVar[str] = "none"
    needs_measurements: ClassVar[bool] = False
    allocation: Literal["equal", "global"] = Field(
        "equal",
        description="equal: every site loses the same share, its least units first; global: scores are compared "
        "across sites as they are.",
    )

    def fit(self, measurements: Measurements) -> Fit:
        if self.allocation == "equal":
            return Fit(rank_fraction(measurements) * measurements.cost_U)
        return Fit(measurements.prior_U.copy())
