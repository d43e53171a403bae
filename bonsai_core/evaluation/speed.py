"""How fast models generate, taking turns, and how much memory each needs for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch

from bonsai_core.model.forward.chunks import out_of_memory
from bonsai_core.model.forward.latency import generation_seconds
from bonsai_core.model.forward.turns import speed, take_turns
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


def generation_speeds(
    models: Sequence[Any], what: Generations, warn: Callable[[str], None]
) -> list[dict[str, dict[str, Any] | None]]:
    """How fast models that take turns generate.

    Returns:
        per model and batch what `speed` says; None where the device has too little memory for one of the models.
    """
    speeds: list[dict[str, dict[str, Any] | None]] = [dict.fromkeys(map(str, what.batches)) for _ in models]
    for batch in what.batches:
        with _skipped_without_memory(batch, warn):
            sides = [partial(generation_seconds, model, batch, what.prompt_tokens, what.new_tokens) for model in models]
            for own, seconds_RP in zip(speeds, take_turns(sides, what.repeats), strict=True):
                own[str(batch)] = speed(seconds_RP, batch, what.prompt_tokens)
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
    generate = partial(generation_seconds, model, batch, what.prompt_tokens, what.new_tokens)
    if device.type == "cuda":
        devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
        for index in devices:
            torch.cuda.reset_peak_memory_stats(index)
        generate()
        return sum(int(torch.cuda.max_memory_allocated(index)) for index in devices)
    process = psutil.Process()
    mps = device.type == "mps"
    with _sampled(torch.mps.driver_allocated_memory if mps else lambda: int(process.memory_info().rss)) as samples:
        generate()
    return max(samples)


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
