"""Negative log-likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import DenseTokens, TokenMetric, token_nll

if TYPE_CHECKING:
    from torch import Tensor


class NLL(TokenMetric):
    """Mean negative log-likelihood per token in nats: the logarithm of perplexity."""

    name: ClassVar[str] = "nll"

    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        return token_nll(logits, targets)

    def utility(self, value: float) -> float:
        return -value
