"""Memory of tensors that are on their way out."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor


def give_back(tensor: Tensor) -> None:
    """Let the system have the memory of a tensor whose values are no longer needed; it must not be read again.

    Weights are mapped from their file, and what has been read of a file stays resident until its last tensor is gone.
    Pages that the tensor shares with others are left alone; where the system knows no such call, all are.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.numel() * tensor.element_size()) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)
