"""Priors: a cheap score per unit, from plain forward passes or from the weights alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts.component import Component

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SiteView:
    """What a prior sees of one site, already shaped per unit, so that one prior serves every architecture.

    Attributes:
        weight: the output projection's weight, float32 [out, units, channels].
        total: None if the prior needs no data; else sum over all tokens of what `Prior.accumulate` returned for the
            site, or `accumulate_layer` for its layer, or for priors that watch ``moments`` of x x' / |h|^2: x is what
            the output projection reads, h the token's hidden state behind the layer; float32 [channels of all units,
            the same]. The norms that follow divide by |h|, so that an error counts as it is felt, and tokens with
            massive activations do not drown the others.
        num_tokens: tokens behind `total`.
        unit_ids: the units' numbers in the unit table, int64 [units]; they never change during a run.
        seed: for priors that draw; the same for every site of a round.
    """

    weight: Tensor
    total: Tensor | None
    num_tokens: int
    unit_ids: NDArray[np.int64]
    seed: int


class Prior(Component):
    """Scores units before anything is perturbed; larger means "keep".

    The engine streams calibration batches through the model once per round, hands each site's inputs to
    `accumulate`, sums what comes back over batches in float64 (float32 where the device has no float64),
    and calls `score` once per site. Because only sums are kept, memory does not grow with the text and the
    result does not depend on how the text was cut into batches.

    Attributes:
        needs_data: False if `score` reads only weights; then no forward pass is made.
        watches: ``sites``: `accumulate` sees what each site's output projection reads; ``layers``: `accumulate_layer`
            sees the hidden states that enter and leave each decoder layer; ``moments``: nothing is accumulated, `score`
            gets the second moments, which the engine collects a layer at a time and keeps on disk.
    """

    needs_data: ClassVar[bool] = True
    watches: ClassVar[Literal["sites", "layers", "moments"]] = "sites"

    def accumulate(self, inputs: Tensor) -> Tensor:
        """Sum over tokens of any statistic of the inputs.

        Args:
            inputs: what the site's output projection reads, float32 [tokens, units, channels].

        Returns:
            A tensor whose leading dimension is units; sums of it over batches reach `score`.
        """
        raise NotImplementedError(f"{type(self).__name__} sets needs_data but does not define accumulate()")

    def accumulate_layer(self, before: Tensor, after: Tensor) -> Tensor:
        """Sum over tokens of any statistic of the hidden states before and after a layer, float32 [tokens, hidden]."""
        raise NotImplementedError(f"{type(self).__name__} watches layers but does not define accumulate_layer()")

    @abstractmethod
    def score(self, site: SiteView) -> Tensor:
        """The units' scores: float [units], finite, non-negative, larger means keep.

        Scores are compared within a site; how sites compare is the estimator's business.
        """
