"""Forward passes over windows of text: hidden states, metrics, perplexity, in memory that is known beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Metric
from bonsai_core.contracts.metric import token_nll
from bonsai_core.errors import BonsaiError

CHUNK_LOGITS = 4 * 1024 * 1024
"""Logits that stand in float32 at once: 16 MiB, whatever the vocabulary and the batch."""


LARGEST_EXPONENT = 700
PerToken = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Passes:
    """Runs token windows through a model, in batches that shrink when the device runs out of memory.

    Args:
        model: a transformers causal LM.
        batch_size: windows per forward pass, to begin with.
        on_warning: told when the batch had to be halved.
        on_tokens: told how many tokens went through.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int,
        on_warning: Callable[[str], None],
        on_tokens: Callable[[int], None] | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self._warn = on_warning
        self._count = on_tokens

    def dense_reference(self, windows_NT: NDArray[np.int64]) -> list[Tensor]:
        """Last hidden states [sequence, hidden] per window, in the model's own type."""
        return [hidden.clone() for _, hidden in self._hidden(windows_NT)]

    def metric(self, metric: Metric, windows_NT: NDArray[np.int64], dense: list[Tensor] | None) -> float:
        """The metric's value for the model as it stands; not finite where the model breaks down."""
        return metric.value(self._mean(metric.per_token, windows_NT, dense))

    def perplexity(self, windows_NT: NDArray[np.int64]) -> float:
        """exp of the mean negative log-likelihood of all predicted tokens, each window on its own."""
        mean = self._mean(lambda logits, targets, _: token_nll(logits, targets), windows_NT, None)
        return math.exp(mean) if mean < LARGEST_EXPONENT else math.inf

    def _mean(self, per_token: PerToken, windows_NT: NDArray[np.int64], dense: list[Tensor] | None) -> float:
        total, count = 0.0, 0
        for index, hidden in self._hidden(windows_NT):
            targets = torch.from_numpy(windows_NT[index, 1:]).to(hidden.device)
            reference = dense[index] if dense is not None else None
            with torch.inference_mode():
                for first in range(0, len(targets), self._chunk_tokens()):
                    rows = slice(first, min(first + self._chunk_tokens(), len(targets)))
                    dense_logits = self._logits(reference[rows]) if reference is not None else None
                    values = per_token(self._logits(hidden[rows]), targets[rows], dense_logits)
                    total += float(values.cpu().double().sum())
                    count += len(values)
        return total / count

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits.float()

    def _chunk_tokens(self) -> int:
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        return max(1, CHUNK_LOGITS // vocabulary)

    def _hidden(self, windows_NT: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
        """(window number, last hidden state [sequence, hidden]) for every window."""
        for start, hidden in self.batches(windows_NT):
            for offset in range(len(hidden)):
                yield start + offset, hidden[offset]

    def batches(self, windows_NT: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
        """(number of the first window, last hidden states [windows, sequence, hidden]) for every batch."""
        start = 0
        while start < len(windows_NT):
            batch = windows_NT[start : start + self.batch_size]
            ids = torch.from_numpy(batch).to(self.model.device)
            try:
                with torch.inference_mode():
                    output = self.model.base_model(input_ids=ids, use_cache=False)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(batch), error)
                continue
            if self._count:
                self._count(batch.size)
            yield start, output.last_hidden_state
            start += len(batch)

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


def _out_of_memory(error: RuntimeError) -> bool:
    """CUDA has an exception of its own; CPU and MPS say it in words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
