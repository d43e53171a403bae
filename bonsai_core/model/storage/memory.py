"""Memory of tensors that are on their way out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import sys

import torch
from torch import Tensor, nn

from bonsai_core.upstream import is_offloaded, set_offloaded_weights

M_MMAP_THRESHOLD = -3
LARGE_BLOCK = 4 * 1024 * 1024


def release(tensor: Tensor) -> None:
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


def read_in(tensor: Tensor) -> None:
    """Read what a tensor has mapped from a file, one byte of each page; one that is in memory is left as it is."""
    tensor.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()


def staged(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor in pinned memory, which a CUDA device can read while the CPU goes on."""
    return torch.empty(tensor.shape, dtype=dtype, pin_memory=True).copy_(tensor)


def drop_weights(model: nn.Module) -> None:
    """Let go of a model's weights, though others hold the model; it cannot be used any more."""
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            parameter.data = parameter.data.new_empty(0)
    for module in model.modules():
        if is_offloaded(module):
            set_offloaded_weights(module, None)  # what it has on the CPU or on disk
    _empty_cache()


def free_cache() -> None:
    """Let go of models that nothing uses any more, and of what the device kept for them."""
    gc.collect()  # models hold references to themselves
    _empty_cache()


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def return_large_blocks() -> None:
    """Let this process give large blocks back to the system when they are freed (glibc; elsewhere nothing happens).

    By default glibc raises the size from which on it does so up to 32 MiB, as blocks are freed; matrices smaller than
    that then leave holes between what is still used, and the process grows by several hundred megabytes.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
