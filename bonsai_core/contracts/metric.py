"""Metrics: how good a sub-model is, from its predictions alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bonsai_core.contracts.component import Component

if TYPE_CHECKING:
    from torch import Tensor


LARGEST_EXPONENT = 700


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each target, float32 [tokens], from logits [tokens, vocabulary]."""
    return logits.logsumexp(dim=-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def perplexity_of(mean_nll: float) -> float:
    """exp of a mean negative log-likelihood in nats; infinite where that overflows."""
    return math.exp(mean_nll) if mean_nll < LARGEST_EXPONENT else math.inf


@dataclass(frozen=True)
class DenseTokens:
    """A sub-model's predictions held against the dense model's, token by token.

    With p the dense model's distribution and z the sub-model's logits, these two and logsumexp(z) give cross-entropy
    and KL divergence without the dense logits: sum_v p_v z_v is linear in the hidden state, so that one vector per
    token, computed once per run, stands for a whole distribution over the vocabulary.

    Attributes:
        entropy: -sum_v p_v log p_v in nats, float32 [tokens].
        expected_logit: sum_v p_v z_v, float32 [tokens].
    """

    entropy: Tensor
    expected_logit: Tensor

    @classmethod
    def compare(cls, dense_logits: Tensor, logits: Tensor) -> DenseTokens:
        """The same from both logits [tokens, vocabulary], for tests and small cases."""
        log_p = dense_logits.log_softmax(dim=-1)
        p = log_p.exp()
        return cls(-(p * log_p).sum(dim=-1), (p * logits).sum(dim=-1))


class Metric(Component):
    """Measures a sub-model on calibration text, one number per predicted token, averaged over tokens.

    The engine calls `per_token` on chunks of a few hundred tokens, so that the logits of a whole batch never
    stand in float32 at once, sums in float64, and turns the mean into the reported `value`.

    Attributes:
        needs_dense: True if `per_token` compares with the dense model. Its side is computed once, at the start of the
            run, and kept as hidden size + 2 float32 numbers per calibration token.
    """

    needs_dense: ClassVar[bool] = False

    @abstractmethod
    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        """One number per token.

        Args:
            logits: the sub-model's, float32 [tokens, vocabulary].
            targets: the true next tokens, int64 [tokens].
            dense: how the dense model compares on these tokens; None unless `needs_dense`.

        Returns:
            float32 [tokens].
        """

    def value(self, mean: float) -> float:
        """The metric as people quote it, from the mean over tokens."""
        return mean

    @abstractmethod
    def utility(self, value: float) -> float:
        """The value turned so that higher is better; this is what estimators regress."""
