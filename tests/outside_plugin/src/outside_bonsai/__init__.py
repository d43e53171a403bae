"""Two priors, one of them broken, and an estimator that somebody else wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bonsai_core import Estimator, Fit, Measurements, Prior, SiteView, WeightPrior, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


class Magnitude(WeightPrior):
    """Norm of the weights that read a unit."""

    name: ClassVar[str] = "outside-magnitude"

    def score(self, site: SiteView) -> Tensor:
        return site.weight.square().sum(dim=(0, 2)).sqrt()


class Broken(WeightPrior):
    """Asks torch for what it does not do."""

    name: ClassVar[str] = "outside-broken"

    def score(self, site: SiteView) -> Tensor:
        return site.weight.reshape(-1, 7919).sum(dim=0)


class Contrast(Estimator):
    """Mean utility with a unit minus that without it, mixed with the prior."""

    name: ClassVar[str] = "outside-contrast"
    trust: float = Field(1.0, ge=0, le=1, description="Weight of the measurements against the prior.")

    def fit(self, measurements: Measurements) -> Fit:
        keep_MU, utility_M = measurements.keep_MU, measurements.utility_M
        with_U = keep_MU.T @ utility_M / keep_MU.sum(axis=0)
        without_U = ~keep_MU.T @ utility_M / (~keep_MU).sum(axis=0)
        importance_U = self.trust * (with_U - without_U) + (1 - self.trust) * measurements.prior_U
        return Fit(importance_U, {"trust": self.trust})


@hookimpl
def bonsai_priors() -> list[type[Prior]]:
    return [Magnitude, Broken]


@hookimpl
def bonsai_estimators() -> list[type[Estimator]]:
    return [Contrast]
