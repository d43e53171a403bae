"""What priors see: sums over all tokens of what each site's output projection reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Prior, SiteView
from bonsai_core.errors import BonsaiError
from bonsai_core.model.passes import Passes
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site


def score_units(
    subject: Subject,
    passes: Passes,
    prior: Prior,
    windows_NT: NDArray[np.int64],
    keep_U: NDArray[np.bool_],
    seed: int,
) -> NDArray[np.float64]:
    """Scores of all kept units of the sub-model under `keep_U`, float64 [U]; 0 where a unit is gone.

    Raises:
        BonsaiError: the prior returned a wrong shape, or negative or non-finite scores.
    """
    totals = _totals(subject, passes, prior, windows_NT, keep_U) if prior.needs_data else {}
    score_U = np.zeros(len(subject.table))
    for site in subject.sites_present():
        ids = np.flatnonzero(subject.present_U[site.units]) + site.first
        weight = subject.output(site).weight.detach().float()
        shaped = weight.view(weight.shape[0], len(ids), site.unit_channels)
        view = SiteView(shaped, totals.get(site.name), windows_NT.size, ids, seed)
        with torch.inference_mode():
            score = prior.score(view).cpu().double().numpy()
        if score.shape != ids.shape or not np.isfinite(score).all() or (score < 0).any():
            raise BonsaiError(
                f"The prior {prior.name!r} must score {site.name} with {len(ids)} finite, non-negative numbers; "
                f"it returned shape {score.shape} in {score.min():.4g} .. {score.max():.4g}."
            )
        score_U[ids] = score
    return np.where(keep_U, score_U, 0.0)


def _totals(
    subject: Subject, passes: Passes, prior: Prior, windows_NT: NDArray[np.int64], keep_U: NDArray[np.bool_]
) -> dict[str, Tensor]:
    """Per site, the sum over all tokens of what the prior accumulates."""
    totals: dict[str, Tensor] = {}
    batch: dict[str, Tensor] = {}  # overwritten, not added to, when a batch is repeated after an error
    with subject.masked(keep_U), _watch_inputs(subject, prior, batch):
        for _ in passes.batches(windows_NT):
            for name, statistic in batch.items():
                totals[name] = totals[name] + statistic if name in totals else statistic
    return totals


@contextmanager
def _watch_inputs(subject: Subject, prior: Prior, into: dict[str, Tensor]) -> Iterator[None]:
    """While open, every forward pass leaves each site's statistic in `into`, in the widest float of the device."""
    wide = torch.float32 if subject.device.type == "mps" else torch.float64

    def watch(site: Site) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0].float().reshape(-1, args[0].shape[-1] // site.unit_channels, site.unit_channels)
            into[site.name] = prior.accumulate(inputs).to(wide)

        return hook

    handles = [subject.output(site).register_forward_pre_hook(watch(site)) for site in subject.sites_present()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
