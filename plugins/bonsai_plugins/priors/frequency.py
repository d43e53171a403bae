"""How often a unit is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import InputPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Frequency(InputPrior):
    """Share of the tokens that are sent to an expert: the usual baseline for mixtures.

    Of other units, the share of tokens for which their channels are not zero: how often a channel is active behind a
    ReLU; 1, no preference, behind smoother functions and in attention.
    """

    name: ClassVar[str] = "frequency"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.count_nonzero(dim=0)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        return statistic.mean.mean(dim=-1)
