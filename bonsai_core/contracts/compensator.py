"""Compensators: forward-only repair of what is kept, after units of a site have gone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bonsai_core.contracts.component import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Removal:
    """A site that is about to lose units, as it stands before.

    Attributes:
        weight: the output projection's weight, float32 [out, units, channels].
        keep: bool [units], True = kept.
        total: sum over all tokens of what `Compensator.accumulate` returned.
        num_tokens: tokens behind `total`.
    """

    weight: Tensor
    keep: Tensor
    total: Tensor
    num_tokens: int


class Compensator(Component):
    """Makes up for removed units with what calibration text says about them.

    After every round's selection the engine streams the prior's calibration windows once more through the model as it
    stands before the removal, sums what `accumulate` returns as it does for priors, and adds the `bias` of every site
    that loses units to its output projection. Sub-models are measured without repair.

    Attributes:
        repairs: False if there is nothing to do; then no forward pass is made.
        adds_bias: True if the pruned model needs a bias on every output projection, which stock checkpoints of most
            families have no place for: then only the shapes ``free`` can be saved.
    """

    repairs: ClassVar[bool] = True
    adds_bias: ClassVar[bool] = False

    @abstractmethod
    def accumulate(self, inputs: Tensor) -> Tensor:
        """Sum over tokens of a statistic of what the output projection reads, float32 [tokens, units, channels]."""

    @abstractmethod
    def bias(self, removal: Removal) -> Tensor:
        """What to add to the output projection's bias, float [out]."""
