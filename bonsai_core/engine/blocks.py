"""Statistics of much text, block by block: what a block of windows adds to them, wherever it is summed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals, Partial, Reader
from bonsai_core.model.forward.lockstep import Lockstep, Stream

BLOCK = 64
"""Windows of a block, about: sums over them are added in order, so that the number of workers changes no rounding."""
Partials = Mapping[str, Mapping[int, Partial]]
"""By name of the reader, by layer."""


def block_size(lockstep: Lockstep, length: int) -> int:
    """Windows of a block, of this many tokens each; chunks do not straddle blocks."""
    in_chunk = lockstep.windows_in_chunk(length)
    return max(1, BLOCK // in_chunk) * in_chunk


def read_layer(
    lockstep: Lockstep, number: int, stream: Stream, readers: Mapping[str, Reader], alive_U: NDArray[np.bool_]
) -> dict[str, LayerTotals]:
    """Put text through a layer, in the sweep that visits it; what plugins read there, by their names."""
    block = block_size(lockstep, stream.ids_NT.shape[1])
    totals = {
        name: LayerTotals(lockstep.subject, number, reader, alive_U, block=block) for name, reader in readers.items()
    }

    def add(before: Tensor, after: Tensor) -> None:
        for total in totals.values():
            total.add(before, after)

    with ExitStack() as stack:
        for total in totals.values():
            stack.enter_context(total.reading())
        lockstep.advance(number, stream, LayerLanes.of(lockstep.subject, number, alive_U[None], None), add)
    return totals


def sum_block(
    lockstep: Lockstep,
    windows_NT: NDArray[np.int64],
    readers: Mapping[str, Reader],
    alive_U: NDArray[np.bool_],
    *,
    counted: bool,
) -> Partials:
    """What a block adds to the statistics of some plugins, at all layers.

    Args:
        counted: whether its tokens count as work done.
    """
    stream = lockstep.stream(windows_NT, counted=counted)
    partials: dict[str, dict[int, Partial]] = {name: {} for name in readers}

    def visit(number: int) -> None:
        for name, totals in read_layer(lockstep, number, stream, readers, alive_U).items():
            partials[name][number] = totals.partial()

    lockstep.sweep(visit)
    return partials
