"""Forward latency of models side by side, and memory that is free or was held."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

WARM_UP = 1


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


def median_seconds(sides: Sequence[Callable[[], Sequence[float]]], repeats: int) -> NDArray[np.float64]:
    """Medians [sides, times], the sides taking turns, so that a machine whose speed changes is fair to all of them.

    Args:
        sides: each runs once and returns the times that it took in seconds, the same number of them for all.
        repeats: how often each is timed, after a warm-up.
    """
    seconds_RST = np.array([[side() for side in sides] for _ in range(WARM_UP + repeats)], dtype=np.float64)
    medians: NDArray[np.float64] = np.median(seconds_RST[WARM_UP:], axis=0)
    return medians


def side_by_side(first: Any, second: Any, *, num_tokens: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a forward pass over one sequence of `num_tokens`, the two models taking turns."""
    device = next(first.parameters()).device
    ids = torch.zeros((1, num_tokens), dtype=torch.long, device=device)

    def forward(model: Any) -> tuple[float]:
        synchronize(device)
        start = time.perf_counter()
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
        synchronize(device)
        return (time.perf_counter() - start,)

    first_s, second_s = median_seconds([partial(forward, first), partial(forward, second)], repeats)[:, 0].tolist()
    return first_s, second_s


def synchronize(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
