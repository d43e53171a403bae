"""Second moments of what sites read, collected layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.layerwise import LayerByLayer
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.statistics import on_input
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site

CHUNK_ROWS = 2048
"""At most this many tokens are held in float32 at once."""
BLOCK = 384
"""Products are symmetric: above the diagonal, blocks of this many channels are not computed."""


def collect_moments(
    subject: Subject,
    passes: Passes,
    windows_NT: NDArray[np.int64],
    keep_U: NDArray[np.bool_],
    receive: Callable[[Site, Tensor], None],
) -> None:
    """Second moments of the sub-model under `keep_U`, as `MomentPrior` describes them.

    Those of one layer are held in memory at a time: channels squared per site, in float32.

    Args:
        receive: gets each site's moments [channels, channels] of the units kept, in the order of the layers.

    Raises:
        BonsaiError: a site reads numbers that are not finite.
    """
    layers = subject.layers_present()
    with subject.masked(keep_U), torch.inference_mode():
        stream = LayerByLayer(passes, list(layers.values()), windows_NT)
        for position, index in enumerate(layers):
            sites = [s for s in subject.sites_present() if s.layer == index and keep_U[s.units].any()]
            for site, total in zip(sites, _of_layer(subject, stream, position, sites), strict=True):
                if not total.isfinite().all():
                    raise BonsaiError(
                        f"{site.name} reads numbers that are not finite, so nothing can be fitted to them. "
                        f"Try --dtype float32 or bfloat16, or another --dataset."
                    )
                receive(site, _select_alive(subject, site, keep_U, total))


def _select_alive(subject: Subject, site: Site, keep_U: NDArray[np.bool_], total: Tensor) -> Tensor:
    channels = site.unit_channels
    by_unit = total.view(len(total) // channels, channels, -1)
    rows = subject.select_alive(site, keep_U, by_unit, dim=0).flatten(0, 1)
    columns = subject.select_alive(site, keep_U, rows.view(len(rows), -1, channels), dim=1)
    return columns.flatten(1)


def _of_layer(subject: Subject, stream: LayerByLayer, position: int, sites: list[Site]) -> list[Tensor]:
    """Second moments of the sites of a layer, while all windows go through it."""
    totals: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}  # overwritten, not added to, when a batch is repeated after an error

    def add(hidden: Tensor) -> None:
        power = hidden.float().square().sum(dim=-1).flatten()
        size = power.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()[:, None]
        for site in sites:
            rows = inputs[site.name].flatten(end_dim=-2)
            if site.name not in totals:
                totals[site.name] = rows.new_zeros((rows.shape[-1],) * 2, dtype=torch.float32)
            for some, their_size in zip(torch.split(rows, CHUNK_ROWS), torch.split(size, CHUNK_ROWS), strict=True):
                _add_lower(totals[site.name], some.float() * their_size)

    with ExitStack() as hooks:
        for site in sites:
            hooks.enter_context(on_input(subject, site, partial(inputs.__setitem__, site.name)))
        stream.advance(position, add)
    return [subject.moments(site, totals[site.name]) for site in sites]


def _add_lower(total: Tensor, rows: Tensor) -> None:
    """Add rows' @ rows [channels, channels] to `total`, as far as it is on or below the diagonal."""
    for start in range(0, len(total), BLOCK):
        end = start + BLOCK
        total[start:end, :end].addmm_(rows[:, start:end].T, rows[:, :end])
