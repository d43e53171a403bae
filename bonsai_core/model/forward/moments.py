"""Second moments of what sites read: sums of outer products over tokens, each relative to the hidden state's size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.errors import BonsaiError
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site

CHUNK_ROWS = 2048
"""At most this many tokens are held in float32 at once."""
CPU_BLOCK, GPU_BLOCK = 384, 2048
"""Products are symmetric: above the diagonal, blocks of this many channels are not computed."""


def add_moments(total: Tensor | None, inputs: Tensor, after: Tensor) -> Tensor:
    """Add a chunk's second moments, as `MomentPrior` describes them, in float32 on and below the diagonal.

    Args:
        total: so far, [channels, channels]; None before the first chunk.
        inputs: what a site reads, [..., channels].
        after: the hidden states behind the layer, [..., hidden], of the same tokens.
    """
    rows, hidden = inputs.flatten(end_dim=-2), after.flatten(end_dim=-2)
    if total is None:
        total = rows.new_zeros((rows.shape[-1],) * 2, dtype=torch.float32)
    for some, their_hidden in zip(torch.split(rows, CHUNK_ROWS), torch.split(hidden, CHUNK_ROWS), strict=True):
        _add_lower(total, relative_rows(some, their_hidden))
    return total


def relative_rows(rows: Tensor, hidden: Tensor) -> Tensor:
    """What belongs to tokens, relative to the size of their hidden states, float32 [tokens, width].

    Args:
        rows: [.., width].
        hidden: [.., hidden], of the same tokens.
    """
    power = hidden.float().square().sum(dim=-1).flatten()
    size = power.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()[:, None]
    return rows.flatten(end_dim=-2).float() * size.to(rows.device)


def finished_moments(subject: Subject, site: Site, alive_U: NDArray[np.bool_], total: Tensor) -> Tensor:
    """The moments of the units alive, [channels, channels].

    Raises:
        BonsaiError: they are not finite.
    """
    moments = subject.moments(site, total)
    if not moments.isfinite().all():
        raise BonsaiError(
            f"{site.name} reads numbers that are not finite, so nothing can be fitted to them. "
            f"Try --dtype float32 or bfloat16, or another --dataset."
        )
    channels = site.unit_channels
    by_unit = moments.view(len(moments) // channels, channels, -1)
    rows = subject.select_alive(site, alive_U, by_unit, dim=0).flatten(0, 1)
    columns = subject.select_alive(site, alive_U, rows.view(len(rows), -1, channels), dim=1)
    return columns.flatten(1)


def _add_lower(total: Tensor, rows: Tensor) -> None:
    """Add rows' @ rows [channels, channels] to `total`, as far as it is on or below the diagonal."""
    block = CPU_BLOCK if total.device.type == "cpu" else GPU_BLOCK
    with tensor_cores(total.device):
        for start in range(0, len(total), block):
            end = start + block
            total[start:end, :end].addmm_(rows[:, start:end].T, rows[:, :end])


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """On CUDA, products of float32 with factors rounded to 10 bits (TF32); sums stay in float32.

    The rounding adds less than a tenth of what damping adds to the error of a repair (tests/test_lockstep.py).
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
