"""Closeness to the dense model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import DenseTokens, TokenMetric, token_kl

if TYPE_CHECKING:
    from torch import Tensor


class KL(TokenMetric):
    """Kullback-Leibler divergence from the dense model's next-token distribution, KL(dense || sub-model), in nats.

    Per token, non-negative; 0 means the sub-model predicts exactly as the dense model does.
    """

    name: ClassVar[str] = "kl"
    needs_dense: ClassVar[bool] = True

    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        assert dense is not None
        return token_kl(logits, dense)

    def utility(self, value: float) -> float:
        return -value
