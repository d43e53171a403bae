"""Bare forward passes: what the device can do with a model, and the memory that it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bonsai_core import load_model
from bonsai_core.model.forward.chunks import out_of_memory
from bonsai_core.model.forward.latency import peak_bytes, synchronize
from bonsai_core.model.storage.devices import find_device


@dataclass(frozen=True)
class Batch:
    """How bare passes are cut: windows of a pass, and logits that are held in float32 at once."""

    windows: int
    logits: int


@dataclass(frozen=True)
class Bare:
    """What bare forward passes take.

    Attributes:
        batches: those that there were memory and time for.
        tokens_per_s: of each.
        peak_bytes: with the first batch alone.
    """

    batches: list[Batch]
    tokens_per_s: list[float]
    peak_bytes: int

    @property
    def best(self) -> Batch:
        return self.batches[self.tokens_per_s.index(max(self.tokens_per_s))]


def bare(source: str, dtype: str, length: int, batches: Sequence[Batch], seconds: float) -> Bare:
    """Load a model and run it bare: base model, head, float32 log-likelihood of each next token.

    Args:
        length: tokens of a window.
        batches: in ascending order.
        seconds: for all batches, about; after that no further one is tried.
    """
    device, peak = find_device("auto"), 0
    model = load_model(source, dtype=dtype)
    tokens_per_s: list[float] = []
    start = time.perf_counter()
    for batch in batches:
        ids = torch.randint(model.config.vocab_size, (batch.windows, length), device=device)
        times: list[float] = []
        try:
            while len(times) < 4 or sum(times) < seconds / len(batches):
                begin = time.perf_counter()
                _forward(model, ids, batch.logits)
                synchronize(device)
                times.append(time.perf_counter() - begin)
        except RuntimeError as error:
            if not out_of_memory(error) or not tokens_per_s:
                raise
            break
        peak = peak or peak_bytes(device)
        tokens_per_s.append(ids.numel() / statistics.median(times[1:]))  # the first one warms up
        if time.perf_counter() - start > seconds:
            break
    return Bare(list(batches[: len(tokens_per_s)]), tokens_per_s, peak)


@torch.inference_mode()
def _forward(model: Any, ids: Tensor, chunk_logits: int) -> Tensor:
    """Negative log-likelihoods of all tokens but each window's first."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    head = model.get_output_embeddings()
    rows = max(1, chunk_logits // head.weight.shape[0])
    found: list[Tensor] = []
    for states, targets in zip(torch.split(hidden, rows), torch.split(ids[:, 1:].flatten(), rows), strict=True):
        logits = head(states).float()
        found.append(logits.logsumexp(dim=-1) - logits.gather(-1, targets[:, None])[:, 0])
    return torch.cat(found)
