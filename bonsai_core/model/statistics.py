"""What priors and compensators see: sums over all tokens of what sites read, or of what enters and leaves layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Compensator, Prior, Removal, SiteView
from bonsai_core.errors import BonsaiError
from bonsai_core.model.layout import decoder_layers
from bonsai_core.model.passes import Passes
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site

Hook = Callable[..., None]


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
    watch = _watch_layers if prior.watches == "layers" else _watch_inputs
    totals = _totals(subject, passes, watch, prior, windows_NT, keep_U) if prior.needs_data else {}
    score_U = np.zeros(len(subject.table))
    for site in subject.sites_present():
        ids = np.flatnonzero(subject.present_U[site.units]) + site.first
        view = SiteView(subject.unit_weight(site), totals.get(site.name), windows_NT.size, ids, seed)
        with torch.inference_mode():
            score = prior.score(view).cpu().double().numpy()
        if score.shape != ids.shape or not np.isfinite(score).all() or (score < 0).any():
            raise BonsaiError(
                f"The prior {prior.name!r} must score {site.name} with {len(ids)} finite, non-negative numbers; "
                f"it returned shape {score.shape} in {score.min():.4g} .. {score.max():.4g}."
            )
        score_U[ids] = score
    return np.where(keep_U, score_U, 0.0)


def repair_biases(
    subject: Subject,
    passes: Passes,
    compensator: Compensator,
    windows_NT: NDArray[np.int64],
    before_U: NDArray[np.bool_],
    keep_U: NDArray[np.bool_],
) -> dict[str, NDArray[np.float32]]:
    """What to add to the output projections' biases of all sites that go from `before_U` to `keep_U`, by site name.

    Raises:
        BonsaiError: the compensator returned a wrong shape or numbers that are not finite.
    """
    totals = _totals(subject, passes, _watch_inputs, compensator, windows_NT, before_U)
    biases = {}
    for site in subject.sites_present():
        if not (before_U & ~keep_U)[site.units].any():
            continue
        weight = subject.unit_weight(site)
        # Units that left in an earlier round contribute nothing to the totals, so they count as removed again.
        keep = torch.from_numpy(keep_U[site.units][subject.present_U[site.units]]).to(weight.device)
        with torch.inference_mode():
            bias = compensator.bias(Removal(weight, keep, totals[site.name], windows_NT.size)).float().cpu().numpy()
        if bias.shape != weight.shape[:1] or not np.isfinite(bias).all():
            raise BonsaiError(
                f"The compensator {compensator.name!r} must give {site.name} {weight.shape[0]} finite numbers; "
                f"it returned shape {bias.shape} with {int((~np.isfinite(bias)).sum())} that are not finite."
            )
        biases[site.name] = bias
    return biases


def _totals(
    subject: Subject,
    passes: Passes,
    watch: Callable[..., list[Any]],
    observer: Prior | Compensator,
    windows_NT: NDArray[np.int64],
    keep_U: NDArray[np.bool_],
) -> dict[str, Tensor]:
    """Per site, the sum over all tokens of what the observer accumulates."""
    totals: dict[str, Tensor] = {}
    batch: dict[str, Tensor] = {}  # overwritten, not added to, when a batch is repeated after an error
    with subject.masked(keep_U), _removed_at_the_end(watch(subject, observer, batch)):
        for _ in passes.batches(windows_NT):
            for name, statistic in batch.items():
                totals[name] = totals[name] + statistic if name in totals else statistic
    return totals


def _watch_inputs(subject: Subject, observer: Prior | Compensator, into: dict[str, Tensor]) -> list[Any]:
    """Hooks by which every forward pass leaves each site's statistic in `into`, in the widest float of the device."""

    def watch(site: Site) -> Hook:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0].float().reshape(-1, args[0].shape[-1] // site.unit_channels, site.unit_channels)
            into[site.name] = observer.accumulate(inputs).to(_wide(subject))

        return hook

    return [subject.output(site).register_forward_pre_hook(watch(site)) for site in subject.sites_present()]


def _watch_layers(subject: Subject, prior: Prior, into: dict[str, Tensor]) -> list[Any]:
    """The same from the hidden states before and after each layer; all sites of a layer get its statistic."""

    def watch(names: list[str]) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            flat = (states.float().reshape(-1, states.shape[-1]) for states in (before, after))
            statistic = prior.accumulate_layer(*flat).to(_wide(subject))
            into.update(dict.fromkeys(names, statistic))

        return hook

    layers = decoder_layers(subject.model, subject.family)
    sites = subject.sites_present()
    return [
        layer.register_forward_hook(watch([site.name for site in sites if site.layer == index]), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]


def _wide(subject: Subject) -> torch.dtype:
    return torch.float32 if subject.device.type == "mps" else torch.float64


@contextmanager
def _removed_at_the_end(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
