"""Compensators: forward-only repair of what is kept, after units of a site have gone.

A compensator's base class says what it needs: `WeightCompensator`, `InputCompensator` or `MomentCompensator`, of which
`LayerCompensator` makes up for whole layers too. If that is text, it is the prior's calibration windows. After each
selection the engine repairs the sites that have lost units, from their dense weights, layer by layer, so that the text
comes through the layers that are repaired already; and before it sub-models, if they need few different repairs, by
what the text does in the model as the round finds it. Mixtures of experts are repaired from what the rounds before
have left, instead of their dense weights.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bonsai_core.contracts.component import Component
from bonsai_core.contracts.statistic import Statistic

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Removal:
    """A site before it loses units: the dense model's, or for sub-models that of the model as the round finds it.

    Attributes:
        weight: the output projection's weight, float32 [out, units, channels].
        keep: bool [units], True = kept.
    """

    weight: Tensor
    keep: Tensor


@dataclass(frozen=True)
class Repair:
    """What a site gets in return for what it loses.

    Attributes:
        weight: replaces the kept units' weight, float [out, kept units, channels]; None: no change.
        bias: is added to the bias that the output projection has before the removal, float [out]; None: no change.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Repair:
        """The same in another type of number."""
        return Repair(*(None if tensor is None else tensor.to(dtype) for tensor in (self.weight, self.bias)))


class Compensator(Component):
    """Makes up for removed units. Inherit one of the three kinds, not this.

    Attributes:
        changes_weights: True if a `Repair` may have a weight.
        adds_bias: True if the pruned model needs a bias on every output projection, which stock checkpoints of most
            families have no place for: then only the shapes ``free`` can be saved.
    """

    changes_weights: ClassVar[bool] = False
    adds_bias: ClassVar[bool] = False

    @property
    def repairs(self) -> bool:
        """Whether it changes anything; if not, it is never called."""
        return self.changes_weights or self.adds_bias


class WeightCompensator(Compensator):
    """Repairs from the weights alone; no forward pass is made."""

    @abstractmethod
    def repair(self, removal: Removal) -> Repair:
        """What the site gets in return."""


class TextCompensator(Compensator):
    """Repairs from a statistic of calibration text. Inherit one of the kinds below, not this."""

    @abstractmethod
    def repair(self, removal: Removal, statistic: Statistic) -> Repair:
        """What the site gets in return; the statistic is from before the removal."""


class InputCompensator(TextCompensator):
    """Repairs from what each site's output projection reads."""

    @abstractmethod
    def accumulate(self, inputs: Tensor) -> Tensor:
        """Sum any small statistic of a site's inputs over tokens, as in `InputPrior`."""


class MomentCompensator(TextCompensator):
    """Repairs from the second moments of what each site's output projection reads, see `MomentPrior`."""


class LayerCompensator(MomentCompensator):
    """Also makes up for layers that have left whole: with the last output projection in front of them.

    Not in mixtures of experts, nor where a layer does more with the projection's output than add it to the hidden
    states, as Gemma 2, OLMo-2 and Granite do.
    """

    @abstractmethod
    def make_up(self, weight: Tensor, statistic: Statistic, missing: Tensor) -> Tensor:
        """The projection's new weight, shaped as `weight`.

        Args:
            weight: repaired already, float32 [out, units, channels]; only units that are kept.
            statistic: second moments of what these units give, relative to h as below.
            missing: sum over tokens of e x' / |h|^2, shaped as `weight`: x what the projection reads, e what the layers
                that have left would add to the hidden states, h the hidden state behind them.
        """
