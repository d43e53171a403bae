"""How much of a unit's output a constant could not stand in for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import Prior, SiteView

if TYPE_CHECKING:
    from torch import Tensor


class Fluctuation(Prior):
    """Variance of the input over tokens times the squared norm of the weights that read it (FLAP's WIFV).

    A unit that hardly fluctuates can be replaced by its mean, which is what the compensator `bias` does.
    An et al. 2023, arXiv:2312.11983, eq. 5, averaged over a unit's channels.
    """

    name: ClassVar[str] = "fluctuation"

    def accumulate(self, inputs: Tensor) -> Tensor:
        from torch import stack

        return stack([inputs.sum(dim=0), inputs.square().sum(dim=0)], dim=1)  # [units, 2, channels]

    def score(self, site: SiteView) -> Tensor:
        assert site.total is not None
        mean, mean_square = (site.total / site.num_tokens).unbind(dim=1)
        variance = (mean_square - mean.square()).clamp(min=0)
        return (variance * site.weight.square().sum(dim=0)).mean(dim=-1)
