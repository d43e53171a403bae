"""Activation magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import InputPrior, SiteView, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Activation(InputPrior):
    """Mean |input| of the output projection, over tokens and a unit's channels.

    The activation-magnitude prior of Dery et al. 2024, arXiv:2402.05406, section 3.2.
    """

    name: ClassVar[str] = "activation"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.abs().sum(dim=0)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        return statistic.mean.mean(dim=-1)
