"""How fast models generate, taking turns, and how much memory one needs for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import torch

from bonsai_core.model.latency import synchronize
from bonsai_core.model.placement import input_device

SAMPLING_S = 0.005


def generation_seconds(
    models: Sequence[Any], *, batch: int, prompt_tokens: int, new_tokens: int, repeats: int
) -> list[dict[str, float]]:
    """Medians over `repeats` turns, after one to warm up, for each model.

    Returns:
        per model ``prefill_s``, from the prompt to the first token; ``decode_s``, for each further token of all
        sequences; ``prefill_tokens_per_s`` and ``decode_tokens_per_s`` over the whole batch.
    """
    times = np.empty((repeats + 1, len(models), 2))
    for turn in range(repeats + 1):
        for column, model in enumerate(models):
            times[turn, column] = _generate(model, batch, prompt_tokens, new_tokens)
    found = []
    for prefill_s, decode_s in np.median(times[1:], axis=0):
        found.append(
            {
                "prefill_s": float(prefill_s),
                "decode_s": float(decode_s),
                "prefill_tokens_per_s": float(batch * prompt_tokens / prefill_s),
                "decode_tokens_per_s": float(batch / decode_s),
            }
        )
    return found


def generation_memory(model: Any, *, batch: int, prompt_tokens: int, new_tokens: int) -> int:
    """The most bytes held while it generates: of the device on CUDA, else resident memory of this process."""
    device = input_device(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        _generate(model, batch, prompt_tokens, new_tokens)
        return int(torch.cuda.max_memory_allocated(device))
    with _resident_peak() as peak:
        _generate(model, batch, prompt_tokens, new_tokens)
    return max(peak)


def _generate(model: Any, batch: int, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and for each one after it."""
    device = input_device(model)
    ids = torch.ones((batch, prompt_tokens), dtype=torch.long, device=device)
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    seconds = []
    for count in (1, 1 + new_tokens):
        synchronize(device)
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, **settings)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds[0], max(seconds[1] - seconds[0], 1e-9) / new_tokens


@contextmanager
def _resident_peak() -> Iterator[list[int]]:
    """Resident bytes of this process, looked at every few milliseconds by a thread."""
    process, seen, stop = psutil.Process(), [psutil.Process().memory_info().rss], threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLING_S):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
