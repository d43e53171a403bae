"""Wanda for units: weights times the size of their inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import InputPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Wanda(InputPrior):
    """Mean over output rows of |weight| times the root mean square of the input.

    Sun et al. 2023, arXiv:2306.11695, eq. 1, averaged over the output projection's rows as in Dery et al. 2024,
    arXiv:2402.05406, and then over a unit's channels.
    """

    name: ClassVar[str] = "wanda"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.square().sum(dim=0)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        rms = statistic.mean.sqrt()
        return (site.weight.abs().mean(dim=0) * rms).mean(dim=-1)
