"""How long models take to read and to write, and memory that is free or was held."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import StoppingCriteria

from bonsai_core.model.forward.turns import Side, take_turns
from bonsai_core.model.storage.devices import input_device
from bonsai_core.upstream import cache_argument, cache_of

STEPS = 4
"""Tokens that are decoded in a row, and timed together."""


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now; for CPU and MPS, on the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def total_bytes(device: torch.device) -> int:
    """Memory of a device; for CPU and MPS, of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def peak_bytes(device: torch.device) -> int:
    """The largest memory that this process has held so far: of the device on CUDA, else resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if psutil.MACOS else peak * 1024)


def enough_repeats(sides: Sequence[Callable[[], Sequence[float]]], seconds: float, limits: tuple[int, int]) -> int:
    """How often some sides can be timed in so many seconds, by the first time each of them takes; within limits."""
    start = time.perf_counter()
    for side in sides:
        side()
    return int(np.clip(seconds / max(time.perf_counter() - start, 1e-6), *limits))


def median_seconds(sides: Sequence[Callable[[], Sequence[float]]], repeats: int) -> NDArray[np.float64]:
    """Medians, float64 [sides, times], of sides that take turns; see `take_turns`."""
    return np.asarray(np.median(take_turns([_every_turn(side) for side in sides], repeats), axis=1))


def least_seconds(sides: Sequence[Callable[[], Sequence[float]]], repeats: int) -> NDArray[np.float64]:
    """The same with the least in place of the median: other work on the machine only ever adds to it."""
    return np.asarray(take_turns([_every_turn(side) for side in sides], repeats).min(axis=1))


def _every_turn(side: Callable[[], Sequence[float]]) -> Side:
    """What does the same at every turn."""
    return lambda turn: side()


@dataclass(frozen=True)
class TimedPass:
    """The pass whose time counts.

    Attributes:
        decode: one token more for every sequence, or else a prompt up to its first new token.
        batch: sequences.
        tokens: of the prompt of each, or in the cache.
    """

    decode: bool
    batch: int
    tokens: int

    @property
    def longest(self) -> int:
        """Positions that are used."""
        return self.tokens + STEPS * self.decode

    def of(self, model: Any) -> Callable[[], tuple[float]]:
        """A function that times a pass of a causal LM, or of a model without a head, and returns seconds."""
        device = next(model.parameters()).device
        last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        options: dict[str, Any] = {"use_cache": True, **({"logits_to_keep": 1} if last_only else {})}
        # Of all kinds of tokens: experts are chosen by them.
        ids = torch.arange(self.batch * self.tokens).reshape(self.batch, -1) * 7919 % model.config.vocab_size
        ids = ids.to(device)
        with torch.inference_mode():
            cache = cache_of(model(input_ids=ids, **options)) if self.decode else None

        def decode() -> tuple[float]:
            own, start = copy.deepcopy(cache), _now(device)
            for _ in range(STEPS):
                model(input_ids=ids[:, :1], **cache_argument(model, own), **options)
            return ((_now(device) - start) / STEPS,)

        def prefill() -> tuple[float]:
            start = _now(device)
            model(input_ids=ids, **options)
            return (_now(device) - start,)

        return torch.inference_mode()(decode if self.decode else prefill)


def cached_per_token(model: Any) -> list[int]:
    """How many bytes the key-value cache of each layer grows by with a second token."""
    one, two = (
        [layer.keys.nbytes + layer.values.nbytes for layer in _cache(model, torch.zeros((1, length), dtype=torch.long))]
        for length in (1, 2)
    )
    return [after - before for before, after in zip(one, two, strict=True)]


def _cache(model: Any, ids: Tensor) -> list[Any]:
    """The layers of the cache after a pass, without those that cache nothing."""
    with torch.inference_mode():
        cache = cache_of(model.base_model(input_ids=ids.to(input_device(model)), use_cache=True))
    return [layer for layer in cache.layers if layer.keys is not None]


def _now(device: torch.device) -> float:
    """The time in seconds, when the device has done all that it was given."""
    synchronize(device)
    return time.perf_counter()


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


def generation_seconds(
    model: Any, batch: int, prompt_tokens: int, new_tokens: int, turn: int = 0
) -> tuple[float, float]:
    """Seconds to the first token, and for each of the `new_tokens` after it, of all sequences.

    Args:
        turn: what the prompts, random tokens, are drawn by.
    """
    device = input_device(model)
    drawn = np.random.default_rng(turn).integers(model.config.get_text_config().vocab_size, size=(batch, prompt_tokens))
    ids = torch.from_numpy(drawn).to(device)
    first, count = _FirstToken(device), 1 + new_tokens
    synchronize(device)
    start = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            max_new_tokens=count,
            min_new_tokens=count,
            stopping_criteria=[first],
        )
    synchronize(device)
    end = time.perf_counter()
    assert first.at is not None
    return first.at - start, (end - first.at) / new_tokens


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
