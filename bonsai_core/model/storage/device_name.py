"""What a device is called, for people who read a figure that was measured on it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """As ``NVIDIA H100`` or ``Intel(R) Xeon(R) ..., 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, threads = processor_name(), torch.get_num_threads()
    if device.type == "cpu":
        return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{name}, {device.type}"


def processor_name() -> str:
    """The processor of this machine."""
    info = Path("/proc/cpuinfo")  # Linux gives the processor's name only here
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
