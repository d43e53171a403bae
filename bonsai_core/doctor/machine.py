"""Devices, memory and disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from bonsai_core.doctor.finding import Finding, Grade
from bonsai_core.errors import shortened
from bonsai_core.sources.demo import cache_folder

LITTLE_DISK = 2_000_000_000
LITTLE_MEMORY = 2_000_000_000
"""Bytes: about what a run on the demo model takes of each."""
CGROUP = Path("/sys/fs/cgroup")
DRIVER = (
    "See whether other programs use the GPU, and install the build of torch that fits its driver: "
    "https://pytorch.org/get-started/locally"
)


def devices() -> Iterator[Finding]:
    """What torch can compute on."""
    import torch

    from bonsai_core.model.storage.device_name import processor_name
    from bonsai_core.upstream import multiplies_bfloat16

    kind = torch.backends.cpu.get_cpu_capability()
    fast = ", multiplies bfloat16" if multiplies_bfloat16(torch.device("cpu")) else ""
    cores, threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1, torch.get_num_threads()
    yield Finding("devices", "CPU", f"{processor_name()}, {cores} cores, torch runs {threads} at once, {kind}{fast}")
    for index in range(torch.cuda.device_count()):
        name = "a GPU"
        try:
            name = torch.cuda.get_device_properties(index).name  # begins to use the driver, which may fail
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            reason = shortened(str(error))
            yield Finding("devices", f"cuda:{index}", f"{name} cannot be used: {reason}", "broken", DRIVER)
        else:
            yield Finding("devices", f"cuda:{index}", f"{name}, {gigabytes(free)} of {gigabytes(total)} free")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        found = f"nvidia-smi is here, but torch {torch.__version__} sees no GPU"
        yield Finding("devices", "CUDA", found, "note", DRIVER)
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", f"{gigabytes(torch.mps.recommended_max_memory())} recommended at most")


def memory(cgroup: Path = CGROUP) -> Iterator[Finding]:
    """What is free, of the machine and, in a container, of what that may have.

    Args:
        cgroup: where the kernel says what limits this process has.
    """
    of_machine = psutil.virtual_memory()
    free, total, where = of_machine.available, of_machine.total, ""
    limit = _number(cgroup / "memory.max")
    if limit is not None and limit < total:
        free, total, where = min(free, limit - (_number(cgroup / "memory.current") or 0)), limit, " of this container"
    few = free < LITTLE_MEMORY
    advice = "Close other programs, or prune a model that is larger than memory with --device-map auto." if few else ""
    found = f"{gigabytes(max(0, free))} of {gigabytes(total)} free{where}"
    yield Finding("memory and disks", "memory", found, "note" if few else "ok", advice)


def disks() -> Iterator[Finding]:
    """Where Bonsai writes: whether it can, and what is free."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {
        "this folder": (Path.cwd(), "Runs go elsewhere with --out."),
        "temporary files": (Path(tempfile.gettempdir()), "TMPDIR names another folder."),
        "cache of Bonsai": (cache_folder(), "BONSAI_CACHE names another folder."),
        "cache of the hub": (Path(HF_HUB_CACHE), "HF_HOME names another folder."),
    }
    for name, (path, advice) in places.items():
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        grade: Grade = "ok" if writable and free >= LITTLE_DISK else "note"
        found = f"{gigabytes(free)} free{'' if writable else ', cannot be written'}: {path}"
        yield Finding("memory and disks", name, found, grade, "" if grade == "ok" else advice)


def _number(file: Path) -> int | None:
    """What a file of the kernel says; None if there is none, or it sets no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
