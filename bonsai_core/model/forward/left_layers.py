"""What layers that have left would do to the text, for the output projection in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import LayerCompensator, Statistic
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.lockstep import Lockstep, Stream
from bonsai_core.model.forward.moments import relative_rows, tensor_cores
from bonsai_core.model.forward.unrepaired import UnrepairedLayers
from bonsai_core.units import Site

ROUNDING = 0.05
"""Of a shift of the hidden states; bfloat16 has three digits."""


def adds_output(lockstep: Lockstep, site: Site, keep_U: NDArray[np.bool_], text: Stream) -> bool:
    """Whether a layer does nothing but add the output of its last site to the hidden states, as most do.

    Others scale it (Granite), or have a norm behind it (Gemma 2, OLMo-2).
    """
    subject, number = lockstep.subject, site.layer
    lanes = LayerLanes.of(subject, number, keep_U[None], None)
    window = Stream(text.ids_NT[:1], text.hidden_NTH[:1], counted=False)
    seen: list[Tensor] = []

    def look() -> None:
        lockstep.advance(number, window, lanes, lambda before, after: seen.append(after.float()), only_look=True)

    look()
    shift = float(seen[0].abs().mean())
    hook = subject.output(site).register_forward_hook(lambda module, args, output: output + shift)
    try:
        look()
    finally:
        hook.remove()
    share = (seen[1] - seen[0]) / shift
    return bool((share - 1).abs().median() < ROUNDING)


def missing_behind(
    lockstep: Lockstep,
    dense: UnrepairedLayers,
    compensator: LayerCompensator,
    site: Site,
    keep_U: NDArray[np.bool_],
    left: Sequence[int],
    text: Stream,
) -> tuple[Statistic, Tensor]:
    """What a site sees of the text, and what the layers behind its own, which have left, would add to that.

    Args:
        site: the last one of its layer, which adds its output to the hidden states.
        left: the numbers of these layers.
        text: in front of the site's layer, where it stays.

    Returns:
        The second moments of the units kept, and the sum over tokens of e x' / |h|^2, float32 [out, units, channels]:
        x what the output projection reads, e what the layers add, h the hidden state behind them.
    """
    subject, number = lockstep.subject, site.layer
    lanes = LayerLanes.of(subject, number, keep_U[None], None)
    behind = Stream(text.ids_NT, text.hidden_NTH.clone(), counted=False)
    lockstep.advance(number, behind, lanes)
    whole_LU = subject.table.keep_all()[None]
    for gone in left:
        dense.reach(gone)
        dense.lockstep.advance(gone, behind, LayerLanes.of(dense.lockstep.subject, gone, whole_LU, None))
    collected = LayerTotals(subject, number, compensator, keep_U, [site])
    module, read = subject.reads(site)
    inputs, done = torch.empty(0), 0
    total: Tensor | None = None

    def receive(module: Any, args: tuple[Any, ...]) -> None:
        nonlocal inputs
        inputs = read(args)

    def add(before: Tensor, after: Tensor) -> None:
        nonlocal total, done
        rows = slice(done, done + len(before))
        hidden, done = behind.hidden_NTH[rows], rows.stop
        collected.add(before, hidden)
        added, seen = relative_rows(hidden.float() - after.float(), hidden), relative_rows(inputs, hidden)
        if total is None:
            total = added.new_zeros(added.shape[1], seen.shape[1])
        with tensor_cores(total.device):
            total.addmm_(added.T, seen.to(total.device))

    with ExitStack() as stack:
        stack.enter_context(collected.reading())
        stack.callback(module.register_forward_pre_hook(receive).remove)
        uncounted = Stream(text.ids_NT, text.hidden_NTH, counted=False)
        lockstep.advance(number, uncounted, lanes, add, only_look=True)
    assert total is not None
    by_unit = total.view(len(total), -1, site.unit_channels)
    return collected.result()[site.name], subject.select_alive(site, keep_U, by_unit, dim=1).to(subject.device)
