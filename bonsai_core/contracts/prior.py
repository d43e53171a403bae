"""Priors: a cheap score per unit, from plain forward passes or from the weights alone.

A prior's base class says what it needs: `WeightPrior`, `InputPrior`, `LayerPrior` or `MomentPrior`. In every round the
engine scores each site once. Scores are float [units], finite and non-negative; larger means keep. They are compared
within a site; comparing sites is the estimator's task.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts.component import Component
from bonsai_core.contracts.statistic import Statistic

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SiteView:
    """What a prior sees of one site, shaped per unit, so that one prior serves every architecture.

    Attributes:
        weight: the output projection's weight, float32 [out, units, channels].
        unit_ids: the units' numbers in the unit table, int64 [units]; they never change during a run.
        seed: for random priors; the same for every site of a round.
    """

    weight: Tensor
    unit_ids: NDArray[np.int64]
    seed: int


class Prior(Component):
    """Scores units before anything is perturbed. Inherit one of the four kinds, not this."""


class WeightPrior(Prior):
    """Scores from the weights alone; no forward pass is made."""

    @abstractmethod
    def score(self, site: SiteView) -> Tensor:
        """The units' scores, float [units]."""


class TextPrior(Prior):
    """Scores from a statistic of calibration text. Inherit one of the three kinds below, not this."""

    @abstractmethod
    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        """The units' scores, float [units]."""


class InputPrior(TextPrior):
    """Scores from what each site's output projection reads.

    An expert of a mixture is one channel: 0 for a token that is not sent to it, else the norm of what it adds to the
    token, divided by that of its projection; so that input times norm of `SiteView.weight` is what it adds.
    """

    @abstractmethod
    def accumulate(self, inputs: Tensor) -> Tensor:
        """Sum any statistic of a site's inputs, float32 [tokens, units, channels], over tokens. Called once per batch.

        The leading dimension of the result is units.
        """


class LayerPrior(TextPrior):
    """Scores from the hidden states that enter and leave each decoder layer; all sites of a layer share the sum."""

    @abstractmethod
    def accumulate(self, before: Tensor, after: Tensor) -> Tensor:
        """Sum any statistic of the hidden states, float32 [tokens, hidden], over tokens. Called once per batch.

        The result may have any shape.
        """


class MomentPrior(TextPrior):
    """Scores from the second moments of what each site's output projection reads.

    The statistic's total is the sum over tokens of x x' / |h|^2, float32 [C, C], C the channels of all units: x is what
    the output projection reads, h the token's hidden state behind the layer. The norms that follow divide by |h|, so an
    error counts as much as it matters, and tokens with massive activations do not drown out the others. The engine
    collects the moments a layer at a time.
    """
