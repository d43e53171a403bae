"""Metrics: how good a sub-model is, from its predictions alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bonsai_core.contracts.component import Component

if TYPE_CHECKING:
    from torch import Tensor


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each target, float32 [tokens], from logits [tokens, vocabulary]."""
    return logits.logsumexp(dim=-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


class Metric(Component):
    """Measures a sub-model on calibration text, one number per predicted token, averaged over tokens.

    The engine calls `per_token` on chunks of a few hundred tokens, so that the logits of a whole batch never
    stand in float32 at once, sums in float64, and turns the mean into the reported `value`.

    Attributes:
        needs_dense: True if `per_token` compares with the dense model; its last hidden states on the calibration
            text are then computed once, at the start of the run, and kept (tokens * hidden size numbers).
    """

    needs_dense: ClassVar[bool] = False

    @abstractmethod
    def per_token(self, logits: Tensor, targets: Tensor, dense_logits: Tensor | None) -> Tensor:
        """One number per token.

        Args:
            logits: the sub-model's, float32 [tokens, vocabulary].
            targets: the true next tokens, int64 [tokens].
            dense_logits: the dense model's on the same tokens, float32 [tokens, vocabulary]; None unless
                `needs_dense`.

        Returns:
            float32 [tokens].
        """

    def value(self, mean: float) -> float:
        """The metric as people quote it, from the mean over tokens."""
        return mean

    @abstractmethod
    def utility(self, value: float) -> float:
        """The value turned so that higher is better; this is what estimators regress."""
