"""Closeness to the dense model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import Metric

if TYPE_CHECKING:
    from torch import Tensor


class KL(Metric):
    """Kullback-Leibler divergence from the dense model's next-token distribution, KL(dense || sub-model), in nats.

    Per token, non-negative; 0 means the sub-model predicts exactly as the dense model does.
    """

    name: ClassVar[str] = "kl"
    needs_dense: ClassVar[bool] = True

    def per_token(self, logits: Tensor, targets: Tensor, dense_logits: Tensor | None) -> Tensor:
        assert dense_logits is not None
        log_dense = dense_logits.log_softmax(dim=-1)
        return (log_dense.exp() * (log_dense - logits.log_softmax(dim=-1))).sum(dim=-1)

    def utility(self, value: float) -> float:
        return -value
