"""Compensators: forward-only repair of what is kept, after units of a site have gone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bonsai_core.contracts.component import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Removal:
    """A site that is about to lose units, as it stands before; earlier losses are no longer in it.

    Attributes:
        weight: the output projection's weight, float32 [out, units, channels].
        keep: bool [units], True = kept.
        total: for compensators that watch ``inputs``, sum over all tokens of what `Compensator.accumulate` returned,
            which leads with units; for those that watch ``moments``, the second moments, see `SiteView.total`.
        num_tokens: tokens behind `total`.
    """

    weight: Tensor
    keep: Tensor
    total: Tensor
    num_tokens: int


@dataclass(frozen=True)
class Repair:
    """What a site gets in return for what it loses.

    Attributes:
        weight: in place of the kept units' weight, float [out, kept units, channels]; None: it stays.
        bias: to add to the output projection's bias, float [out]; None: nothing.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None


class Compensator(Component):
    """Makes up for removed units with what calibration text says about them.

    Once a round the engine streams the prior's calibration windows through the model as the round finds it and keeps
    each site's total. The sites that lose units in the selection are repaired by it, and so are the sub-models,
    wherever the repairs that they need are few enough to be prepared beforehand.

    Attributes:
        repairs: False if there is nothing to do; then no forward pass is made.
        watches: ``inputs``: `accumulate` sees what each site's output projection reads, and returns something small;
            ``moments``: the second moments, which the engine collects a layer at a time and keeps on disk.
        changes_weights: True if a `Repair` may have a weight.
        adds_bias: True if the pruned model needs a bias on every output projection, which stock checkpoints of most
            families have no place for: then only the shapes ``free`` can be saved.
    """

    repairs: ClassVar[bool] = True
    watches: ClassVar[Literal["inputs", "moments"]] = "inputs"
    changes_weights: ClassVar[bool] = False
    adds_bias: ClassVar[bool] = False

    def accumulate(self, inputs: Tensor) -> Tensor:
        """Sum over tokens of a statistic of what the output projection reads, float32 [tokens, units, channels].

        Returns:
            A tensor whose leading dimension is units; sums of it over batches reach `repair`.
        """
        raise NotImplementedError(f"{type(self).__name__} watches inputs but does not define accumulate()")

    @abstractmethod
    def repair(self, removal: Removal) -> Repair:
        """What the site gets in return."""
