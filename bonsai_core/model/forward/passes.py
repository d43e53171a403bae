"""Forward passes over windows of text: hidden states, metrics and perplexity, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Answers, DenseTokens
from bonsai_core.contracts.metric import PerToken, perplexity_of, token_nll
from bonsai_core.errors import BonsaiError
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.storage.devices import input_device
from bonsai_core.sources import Question

CHUNK_LOGITS = 8 * 1024 * 1024
"""Logits that are held in float32 at once: 32 MiB, whatever the vocabulary and the batch."""


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

    def compare(self, head: Head, hidden: Tensor, logits: Tensor, first: int) -> DenseTokens:
        """Compare a sub-model's hidden states and logits with it, at the tokens from `first` on."""
        rows = slice(first, first + len(hidden))
        if head.is_linear:
            expected_logit = (hidden.float() * self.vector[rows]).sum(dim=-1) + self.constant[rows]
        else:
            p = head.logits(self.vector[rows].to(hidden.dtype)).softmax(dim=-1)
            expected_logit = (p * logits).sum(dim=-1)
        return DenseTokens(self.entropy[rows], expected_logit)


class Passes:
    """Runs token windows through a model, in batches that shrink when the device runs out of memory.

    Args:
        batch_size: windows per forward pass, at first.
        on_warning: is notified when the batch is halved.
        on_tokens: receives the number of tokens of each batch.
    """

    def __init__(
        self,
        model: CausalLM,
        batch_size: int,
        on_warning: Callable[[str], None],
        on_tokens: Callable[[int], None] | None = None,
        chunk_logits: int = CHUNK_LOGITS,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self._warn = on_warning
        self._count = on_tokens
        self._head = Head(model)
        self._chunk_tokens = max(1, chunk_logits // self._head.vocabulary)

    def dense_reference(self, windows_NT: NDArray[np.int64]) -> DenseSide:
        """What is kept of the model as it is now, to compare sub-models with it on the same windows."""
        chunks = []
        with torch.inference_mode():
            for hidden, _ in self._predictions(windows_NT):
                log_p = self._head.logits(hidden).log_softmax(dim=-1)
                p = log_p.exp()
                side = self._head.average(p) if self._head.is_linear else (hidden.float(), p.new_zeros(len(p)))
                chunks.append(DenseSide(-(p * log_p).sum(dim=-1), *side))
        return DenseSide(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    def perplexity(self, windows_NT: NDArray[np.int64]) -> float:
        """exp of the mean negative log-likelihood of all predicted tokens, each window on its own."""
        mean = self.token_mean(lambda logits, targets, _: token_nll(logits, targets), windows_NT, None)
        return perplexity_of(mean)

    def token_mean(self, per_token: PerToken, windows_NT: NDArray[np.int64], dense: DenseSide | None) -> float:
        """Mean of `per_token` over all predicted tokens; not finite where the model breaks down."""
        total, count = 0.0, 0
        with torch.inference_mode():
            for hidden, targets in self._predictions(windows_NT):
                logits = self._head.logits(hidden)
                compared = dense.compare(self._head, hidden, logits, count) if dense is not None else None
                values = per_token(logits, targets, compared)
                total += float(values.cpu().double().sum())
                count += len(values)
        return total / count

    def answers(self, questions: Sequence[Question]) -> list[Answers]:
        """Log-likelihoods of every question's choices; sequences of about the same length share a batch."""
        scores = [np.zeros(len(question.sequences)) for question in questions]
        rows = [(q, c) for q, question in enumerate(questions) for c in range(len(question.sequences))]
        rows.sort(key=lambda row: len(questions[row[0]].sequences[row[1]]))
        start = 0
        while start < len(rows):
            batch = rows[start : start + self.batch_size]
            # Padded on the right: no token sees what follows it.
            ids_NT = np.zeros((len(batch), len(questions[batch[-1][0]].sequences[batch[-1][1]])), dtype=np.int64)
            sequences = [questions[q].sequences[c] for q, c in batch]
            for row_T, sequence in zip(ids_NT, sequences, strict=True):
                row_T[: len(sequence)] = sequence
            for first, hidden in self.batches(ids_NT, np.array([len(sequence) for sequence in sequences])):
                for row, states in enumerate(hidden, start=first):
                    q, c = batch[row]
                    scores[q][c] = self._log_likelihood(states, questions[q].sequences[c], questions[q].num_given[c])
            start += len(batch)
        return [Answers(row, q.num_bytes, q.gold) for row, q in zip(scores, questions, strict=True)]

    def _log_likelihood(self, hidden: Tensor, sequence: NDArray[np.int64], num_given: int) -> float:
        """Of the tokens after the first `num_given`, from the last hidden states [tokens or more, hidden]."""
        targets = torch.from_numpy(sequence[num_given:]).to(hidden.device)
        predicting = hidden[num_given - 1 : len(sequence) - 1]
        with torch.inference_mode():
            chunks = zip(self.logits(predicting), torch.split(targets, self._chunk_tokens), strict=True)
            return -sum(float(token_nll(logits, ids).cpu().double().sum()) for logits, ids in chunks)

    def logits(self, hidden: Tensor) -> Iterator[Tensor]:
        """float32 [tokens, vocabulary] of last hidden states [tokens, hidden], a chunk of tokens at a time."""
        return (self._head.logits(rows) for rows in torch.split(hidden, self._chunk_tokens))

    def _predictions(self, windows_NT: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        """(last hidden states [tokens, hidden], next tokens [tokens]) of all predicted tokens, in chunks, in order."""
        for start, hidden in self.batches(windows_NT):
            targets = torch.from_numpy(windows_NT[start : start + len(hidden), 1:]).to(hidden.device)
            rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
            for first in range(0, len(rows), self._chunk_tokens):
                chunk = slice(first, first + self._chunk_tokens)
                yield rows[chunk], targets.reshape(-1)[chunk]

    def batches(
        self, windows_NT: NDArray[np.int64], lengths_N: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(number of the first window, last hidden states [windows, sequence, hidden]) for every batch.

        Args:
            lengths_N: tokens of each window without padding; None if there is none.
        """

        def forward(rows: slice) -> Tensor:
            ids = torch.from_numpy(windows_NT[rows]).to(input_device(self.model))
            hidden: Tensor = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            return hidden

        for rows, hidden in self.in_batches(len(windows_NT), forward):
            self.count(windows_NT[rows].size if lengths_N is None else int(lengths_N[rows].sum()))
            yield rows.start, hidden

    def in_batches(self, num_windows: int, forward: Callable[[slice], Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """(rows, `forward` of them) for all windows; a batch that does not fit into memory is halved."""
        start = 0
        while start < num_windows:
            rows = slice(start, min(start + self.batch_size, num_windows))
            try:
                with torch.inference_mode():
                    output = forward(rows)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(rows.stop - rows.start, error)
                continue
            yield rows, output
            start = rows.stop

    def count(self, tokens: int) -> None:
        """Notify that this many tokens went through the model."""
        if self._count:
            self._count(tokens)

    def _halve(self, used: int, error: RuntimeError) -> None:
        if used == 1:
            raise BonsaiError(
                "The device ran out of memory on a single window. Use a shorter --sequence-length, "
                f"a smaller --dtype, or another --device. ({str(error).splitlines()[0]})"
            ) from error
        self.batch_size = used // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn(f"The device ran out of memory: the batch is now {self.batch_size} windows instead of {used}.")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that: CUDA has an exception for it, CPU and MPS only words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
