"""No repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import Compensator, Removal

if TYPE_CHECKING:
    from torch import Tensor


class NoRepair(Compensator):
    """What is kept stays as it is, as in the paper."""

    name: ClassVar[str] = "none"
    repairs: ClassVar[bool] = False

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(inputs.shape[1])

    def bias(self, removal: Removal) -> Tensor:
        return removal.weight.new_zeros(len(removal.weight))
