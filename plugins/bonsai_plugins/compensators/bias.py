"""FLAP's repair: the output of removed units is replaced by its mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import InputCompensator, Removal, Repair, Statistic

if TYPE_CHECKING:
    from torch import Tensor


class Bias(InputCompensator):
    """Adds the mean contribution of the removed units to the output projection's bias.

    An et al. 2023 (FLAP), arXiv:2312.11983, eq. 4. The checkpoint gets a bias on every output projection: `hidden size`
    numbers a site.
    """

    name: ClassVar[str] = "bias"
    adds_bias: ClassVar[bool] = True

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.sum(dim=0)

    def repair(self, removal: Removal, statistic: Statistic) -> Repair:
        gone = ~removal.keep
        return Repair(bias=removal.weight[:, gone].flatten(1) @ statistic.mean[gone].flatten().to(removal.weight.dtype))
