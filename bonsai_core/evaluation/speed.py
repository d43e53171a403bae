"""How fast models generate, taking turns, and how much memory each needs for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import StoppingCriteria

from bonsai_core.model.forward.chunks import out_of_memory
from bonsai_core.model.forward.latency import median_seconds, synchronize
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.storage.memory import free_cache

SAMPLING_S = 0.005


@dataclass(frozen=True)
class Generations:
    """What is generated when speed and memory are measured.

    Attributes:
        batches: numbers of sequences at once.
        new_tokens: per sequence, after the first one.
        repeats: times each is timed, after a warm-up.
    """

    batches: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    repeats: int


def generation_seconds(
    models: Sequence[Any], what: Generations, warn: Callable[[str], None]
) -> list[dict[str, dict[str, float] | None]]:
    """Medians over the repeats, the models taking turns.

    Returns:
        per model and batch ``prefill_s``, from the prompt to the first token; ``decode_s``, for each further token of
        all sequences; ``prefill_tokens_per_s`` and ``decode_tokens_per_s`` over the whole batch. None where the
        device has too little memory for one of the models.
    """
    speeds: list[dict[str, dict[str, float] | None]] = [dict.fromkeys(map(str, what.batches)) for _ in models]
    for batch in what.batches:
        with _skipped_without_memory(batch, warn):
            medians = median_seconds([partial(_generate, model, batch, what) for model in models], what.repeats)
            for speed, (prefill_s, decode_s) in zip(speeds, medians.tolist(), strict=True):
                speed[str(batch)] = {
                    "prefill_s": prefill_s,
                    "decode_s": decode_s,
                    "prefill_tokens_per_s": batch * what.prompt_tokens / prefill_s,
                    "decode_tokens_per_s": batch / decode_s,
                }
    return speeds


def generation_memory(model: Any, what: Generations, warn: Callable[[str], None]) -> dict[str, int | None]:
    """Peak bytes while it generates, per batch; None where the device has too little memory.

    On CUDA those of all GPUs, on MPS those of the driver, else those of the whole process.
    """
    peaks: dict[str, int | None] = dict.fromkeys(map(str, what.batches))
    for batch in what.batches:
        free_cache()
        with _skipped_without_memory(batch, warn):
            peaks[str(batch)] = _peak_of(model, batch, what)
    return peaks


@contextmanager
def _skipped_without_memory(batch: int, warn: Callable[[str], None]) -> Iterator[None]:
    """Leave the block, with a warning, when memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        warn(f"There is too little memory to generate {batch} sequences at once. ({str(error).splitlines()[0]})")
        free_cache()


def _peak_of(model: Any, batch: int, what: Generations) -> int:
    device = input_device(model)
    if device.type == "cuda":
        devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        for index in devices:
            torch.cuda.reset_peak_memory_stats(index)
        _generate(model, batch, what)
        return sum(int(torch.cuda.max_memory_allocated(index)) for index in devices)
    process = psutil.Process()
    mps = device.type == "mps"
    with _sampled(torch.mps.driver_allocated_memory if mps else lambda: int(process.memory_info().rss)) as samples:
        _generate(model, batch, what)
    return max(samples)


class _FirstToken(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Never stops; records when the first new token is there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.at: float | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **settings: Any) -> Tensor:
        if self.at is None:
            synchronize(self._device)
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(model: Any, batch: int, what: Generations) -> tuple[float, float]:
    """Seconds to the first token, and for each one after it."""
    device = input_device(model)
    ids = torch.ones((batch, what.prompt_tokens), dtype=torch.long, device=device)
    first, count = _FirstToken(device), 1 + what.new_tokens
    synchronize(device)
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            pad_token_id=0,
            max_new_tokens=count,
            min_new_tokens=count,
            stopping_criteria=[first],
        )
    synchronize(device)
    end = time.perf_counter()
    assert first.at is not None
    return first.at - start, (end - first.at) / what.new_tokens


@contextmanager
def _sampled(num_bytes: Callable[[], int]) -> Iterator[list[int]]:
    """Numbers of bytes that a thread reads every few milliseconds."""
    samples, stop = [num_bytes()], threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLING_S):
            samples.append(num_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
