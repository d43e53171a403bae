"""What last hidden states predict: metrics over tokens, perplexity and answers, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Answers, DenseTokens
from bonsai_core.contracts.metric import PerToken, perplexity_of, token_nll
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.forward.padding import PaddedBatch
from bonsai_core.model.storage.devices import input_device
from bonsai_core.sources import Question

CHUNK_LOGITS = 8 * 1024 * 1024
"""Logits that are held in float32 at once: 32 MiB, whatever the vocabulary and the number of tokens."""
GPU_CHUNK_LOGITS = 8 * CHUNK_LOGITS
"""The same on GPUs, where a product of few tokens takes as long as one of many."""

LastHidden = Iterator[tuple[int, Tensor]]
"""(number of the first window, last hidden states [windows, sequence, hidden]) of chunks of windows, in order."""


class DenseSide(NamedTuple):
    """The dense model's predictions on some windows, in hidden size + 2 float32 numbers per predicted token.

    Attributes:
        entropy: of the next-token distribution p, nats [tokens].
        vector: the head averaged under p, [tokens, hidden]; where the head is not linear, the hidden states, from which
            p is computed anew.
        constant: what is added to the average, [tokens].
    """

    entropy: Tensor
    vector: Tensor
    constant: Tensor

    def to(self, device: torch.device) -> DenseSide:
        """The same on a device."""
        return DenseSide(*(tensor.to(device) for tensor in self))

    def compare(self, head: Head, hidden: Tensor, logits: Tensor, first: int) -> DenseTokens:
        """Compare a sub-model's hidden states and logits with it, at the tokens from `first` on."""
        rows = slice(first, first + len(hidden))
        if head.is_linear:
            expected_logit = (hidden.float() * self.vector[rows]).sum(dim=-1) + self.constant[rows]
        else:
            p = head.logits(self.vector[rows].to(hidden.dtype)).softmax(dim=-1)
            expected_logit = (p * logits).sum(dim=-1)
        return DenseTokens(self.entropy[rows], expected_logit)


class Predictions:
    """Reads a model's predictions off its last hidden states.

    Args:
        last_hidden: gives those of some windows, int64 [windows, sequence], of which the second argument says how many
            tokens are no padding, int64 [windows]; None for all of them.
    """

    def __init__(
        self,
        model: CausalLM,
        last_hidden: Callable[[NDArray[np.int64], NDArray[np.int64] | None], LastHidden],
        chunk_logits: int | None = None,
    ) -> None:
        self._head = Head(model)
        self._last_hidden = last_hidden
        most = CHUNK_LOGITS if input_device(model).type == "cpu" else GPU_CHUNK_LOGITS
        self._chunk_tokens = max(1, (chunk_logits or most) // self._head.vocabulary)

    def dense_side(self, windows_NT: NDArray[np.int64]) -> DenseSide:
        """What is kept of the model as it is now, to compare sub-models with it on the same windows."""
        chunks = []
        with torch.inference_mode():
            for hidden, _ in self._predicted(windows_NT):
                log_p = self._head.logits(hidden).log_softmax(dim=-1)
                p = log_p.exp()
                side = self._head.average(p) if self._head.is_linear else (hidden.float(), p.new_zeros(len(p)))
                chunks.append(DenseSide(-(p * log_p).sum(dim=-1), *side))
        return DenseSide(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    def perplexity(self, windows_NT: NDArray[np.int64]) -> float:
        """exp of the mean negative log-likelihood of all predicted tokens, each window on its own."""
        return perplexity_of(self.token_mean(lambda logits, targets, _: token_nll(logits, targets), windows_NT, None))

    def token_mean(self, per_token: PerToken, windows_NT: NDArray[np.int64], dense: DenseSide | None) -> float:
        """Mean of `per_token` over all predicted tokens; not finite where the model breaks down."""
        total, count = 0.0, 0
        with torch.inference_mode():
            for hidden, targets in self._predicted(windows_NT):
                logits = self._head.logits(hidden)
                compared = dense.compare(self._head, hidden, logits, count) if dense is not None else None
                values = per_token(logits, targets, compared)
                total += float(values.cpu().double().sum())
                count += len(values)
        return total / count

    def answers(self, questions: Sequence[Question], batches: Sequence[PaddedBatch]) -> list[Answers]:
        """Log-likelihoods of every question's choices.

        Args:
            batches: the questions' sequences, see `padded_batches`.
        """
        scores = [np.zeros(len(question.sequences)) for question in questions]
        for batch in batches:
            for first, hidden in self._last_hidden(batch.ids_NT, batch.lengths_N):
                for row, states in enumerate(hidden, start=first):
                    q, c = batch.choices[row]
                    scores[q][c] = self._log_likelihood(states, questions[q].sequences[c], questions[q].num_given[c])
        return [Answers(row, q.num_bytes, q.gold) for row, q in zip(scores, questions, strict=True)]

    def logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """float32 [tokens, vocabulary] of last hidden states [tokens, hidden], a chunk of tokens at a time."""
        return (self._head.logits(rows) for rows in torch.split(hidden, self._chunk_tokens))

    def _log_likelihood(self, hidden: Tensor, sequence: NDArray[np.int64], num_given: int) -> float:
        """Of the tokens after the first `num_given`, from the last hidden states [tokens or more, hidden]."""
        targets = torch.from_numpy(sequence[num_given:]).to(hidden.device)
        predicting = hidden[num_given - 1 : len(sequence) - 1]
        with torch.inference_mode():
            chunks = zip(self.logits(predicting), torch.split(targets, self._chunk_tokens), strict=True)
            return -sum(float(token_nll(logits, ids).cpu().double().sum()) for logits, ids in chunks)

    def _predicted(self, windows_NT: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """(last hidden states [tokens, hidden], next tokens [tokens]) of all predicted tokens, in chunks, in order."""
        for start, hidden in self._last_hidden(windows_NT, None):
            targets = torch.from_numpy(windows_NT[start : start + len(hidden), 1:]).to(hidden.device)
            rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
            for first in range(0, len(rows), self._chunk_tokens):
                chunk = slice(first, first + self._chunk_tokens)
                yield rows[chunk], targets.reshape(-1)[chunk]
