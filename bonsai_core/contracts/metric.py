"""Metrics: how good a sub-model is, from its predictions alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """A sub-model's predictions compared with the dense model's, token by token.

    With p the dense model's distribution and z the sub-model's logits, these two and logsumexp(z) give cross-entropy
    and KL divergence without the dense logits: sum_v p_v z_v is linear in the hidden state, so that one vector per
    token, computed once per run, replaces a whole distribution over the vocabulary.

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


def token_kl(logits: Tensor, dense: DenseTokens) -> Tensor:
    """KL(dense || sub-model) in nats of each token, float32 [tokens], from the sub-model's logits."""
    return logits.logsumexp(dim=-1) - dense.expected_logit - dense.entropy


@dataclass(frozen=True)
class Answers:
    """A sub-model's scores for the choices of one question.

    Attributes:
        log_likelihood: of each choice after the question, summed over its tokens, nats, float64 [choices].
        num_bytes: length of each choice in UTF-8, int64 [choices], for length-normalised scores.
        gold: index of the right choice.
    """

    log_likelihood: NDArray[np.float64]
    num_bytes: NDArray[np.int64]
    gold: int


PerToken = Callable[["Tensor", "Tensor", "DenseTokens | None"], "Tensor"]


class Probe(Protocol):
    """What a metric may ask of a sub-model. The keep vector is applied to the model already.

    Attributes:
        model: the sub-model, a transformers causal LM in evaluation mode, not to be changed.
    """

    model: Any
    tokenizer: Any

    def token_mean(self, per_token: PerToken) -> float:
        """Mean over all predicted tokens of the calibration text, summed in float64."""

    def answers(self) -> Sequence[Answers]:
        """The sub-model's answers to the calibration questions, in their order."""


class Metric(Component):
    """Measures a sub-model: any number, differentiable or not, that a few forward passes give.

    Inherit `TokenMetric` for an average over predicted tokens, `ChoiceMetric` for multiple-choice questions.

    Attributes:
        reads: the calibration data of the probe: ``text``, ``choices`` (rows of `{"question", "choices", "gold"}`), or
            ``nothing`` if the metric has its own.
        needs_dense: True if sub-models are compared with the dense model. Its side is computed once, at the start of
            the run, and kept as hidden size + 2 float32 numbers per calibration token.
    """

    reads: ClassVar[Literal["text", "choices", "nothing"]] = "text"
    needs_dense: ClassVar[bool] = False

    @abstractmethod
    def measure(self, probe: Probe) -> float:
        """The metric's value as people quote it; not finite if the sub-model has broken down."""

    @abstractmethod
    def utility(self, value: float) -> float:
        """The value turned so that higher is better; this is what estimators regress."""


class TokenMetric(Metric):
    """One number per predicted token, averaged over tokens.

    The engine calls `per_token` on chunks of a few hundred tokens, so that the logits of a whole batch are never all
    held in float32, sums in float64, and turns the mean into the reported `value`.
    """

    @abstractmethod
    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        """One number per token.

        Args:
            logits: the sub-model's, float32 [tokens, vocabulary].
            targets: the true next tokens, int64 [tokens].
            dense: the comparison with the dense model on these tokens; None unless `needs_dense`.

        Returns:
            float32 [tokens].
        """

    def value(self, mean: float) -> float:
        """The metric as people quote it, from the mean over tokens."""
        return mean

    def measure(self, probe: Probe) -> float:
        return self.value(probe.token_mean(self.per_token))


class ChoiceMetric(Metric):
    """One number per multiple-choice question, averaged over questions."""

    reads: ClassVar[Literal["text", "choices", "nothing"]] = "choices"

    @abstractmethod
    def per_question(self, answers: Answers) -> float:
        """One number for one question; higher is better."""

    def measure(self, probe: Probe) -> float:
        return float(np.mean([self.per_question(answers) for answers in probe.answers()]))

    def utility(self, value: float) -> float:
        return value
