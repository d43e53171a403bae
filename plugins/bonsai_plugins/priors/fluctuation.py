"""How much of a unit's output a constant cannot replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bonsai_core import InputPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Fluctuation(InputPrior):
    """Variance of the input over tokens times the squared norm of the weights that read it (FLAP's WIFV).

    A unit that hardly fluctuates can be replaced by its mean, which is what the compensator `bias` does.
    An et al. 2023, arXiv:2312.11983, eq. 5, averaged over a unit's channels; `standardised` is its eq. 6, with channels
    of heads squared first, as in the authors' code.
    """

    name: ClassVar[str] = "fluctuation"
    standardised: bool = Field(
        False,
        description="Channels in standard deviations from their site's mean, so that sites can be compared; "
        "through softplus, which keeps the order and makes scores positive.",
    )

    def accumulate(self, inputs: Tensor) -> Tensor:
        from torch import stack

        return stack([inputs.sum(dim=0), inputs.square().sum(dim=0)], dim=1)  # [units, 2, channels]

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        mean, mean_square = statistic.mean.unbind(dim=1)
        variance = (mean_square - mean.square()).clamp(min=0)
        channel = variance * site.weight.square().sum(dim=0)
        return _standardised(channel) if self.standardised else channel.mean(dim=-1)


def _standardised(channel: Tensor) -> Tensor:
    from torch.nn.functional import softplus

    largest = channel.max()
    if largest > 0:
        channel = channel / largest  # or squares of the extremes would overflow
    if channel.shape[-1] > 1:
        channel = channel.square()
    deviation = channel - channel.mean()
    spread = deviation.square().mean().sqrt()
    return softplus((deviation / spread if spread > 0 else deviation).mean(dim=-1))
