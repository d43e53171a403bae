"""Forward latency of two models, side by side, and how much memory is free for having both."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import torch

WARM_UP = 1


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now; for CPU and MPS that of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held so far: of the device on CUDA, else resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if psutil.MACOS else peak * 1024)


def side_by_side(first: Any, second: Any, *, num_tokens: int, repeats: int) -> tuple[float, float]:
    """Median seconds of a forward pass over one sequence of `num_tokens`, the two models taking turns."""
    device = next(first.parameters()).device
    ids = torch.zeros((1, num_tokens), dtype=torch.long, device=device)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_UP + repeats):
        for model, column in zip((first, second), times, strict=True):
            synchronize(device)
            start = time.perf_counter()
            with torch.inference_mode():
                model(input_ids=ids, use_cache=False)
            synchronize(device)
            if turn >= WARM_UP:
                column.append(time.perf_counter() - start)
    return float(np.median(times[0])), float(np.median(times[1]))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
