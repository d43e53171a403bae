"""Perplexity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from bonsai_core import DenseTokens, TokenMetric, perplexity_of, token_nll

if TYPE_CHECKING:
    from torch import Tensor


class Perplexity(TokenMetric):
    """exp of the mean negative log-likelihood per token; the paper's metric.

    Its utility is minus the logarithm, on which the effects of units add up far better than on perplexity itself.
    """

    name: ClassVar[str] = "perplexity"

    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        return token_nll(logits, targets)

    def value(self, mean: float) -> float:
        return perplexity_of(mean)

    def utility(self, value: float) -> float:
        return -math.log(value)
