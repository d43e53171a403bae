"""What priors and compensators see: sums over all tokens of what sites read, or of what enters and leaves layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bonsai_core.contracts import (
    Compensator,
    InputCompensator,
    InputPrior,
    LayerPrior,
    Prior,
    Removal,
    Repair,
    SiteView,
    Statistic,
    TextCompensator,
    TextPrior,
    WeightCompensator,
    WeightPrior,
)
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site


def score_units(
    subject: Subject, prior: Prior, totals: Mapping[str, Tensor], num_tokens: int, keep_U: NDArray[np.bool_], seed: int
) -> NDArray[np.float64]:
    """Scores of all kept units of the sub-model under `keep_U`, float64 [U]; 0 where a unit is gone.

    Args:
        totals: by site name, what the prior reads of `num_tokens` tokens of text; unused if it needs none.

    Raises:
        BonsaiError: the prior returned a wrong shape, or negative or non-finite scores.
    """
    score_U = np.zeros(len(subject.table))
    for site in subject.sites_present():
        ids = np.flatnonzero(keep_U[site.units]) + site.first
        if not len(ids):
            continue
        view = SiteView(subject.unit_weight(site, keep_U), ids, seed)
        with torch.inference_mode():
            if isinstance(prior, TextPrior):
                score_n = prior.score(view, Statistic(totals[site.name], num_tokens))
            else:
                assert isinstance(prior, WeightPrior)  # the registry admits no others
                score_n = prior.score(view)
        score = score_n.cpu().double().numpy()
        if score.shape != ids.shape or not np.isfinite(score).all() or (score < 0).any():
            raise BonsaiError(
                f"The prior {prior.name!r} must score {site.name} with {len(ids)} finite, non-negative numbers; "
                f"it returned shape {score.shape} in {score.min():.4g} .. {score.max():.4g}."
            )
        score_U[ids] = score
    return score_U


def site_repair(
    subject: Subject,
    compensator: Compensator,
    totals: Mapping[str, Tensor],
    num_tokens: int,
    site: Site,
    alive_U: NDArray[np.bool_],
    keep_U: NDArray[np.bool_],
) -> Repair:
    """What a site gets for losing every unit that is alive but not kept.

    Args:
        totals: by site name, what the compensator reads of `num_tokens` tokens of text; unused if it needs none.

    Raises:
        BonsaiError: the compensator returned a wrong shape, or numbers that are not finite.
    """
    weight = subject.unit_weight(site, alive_U)
    keep = torch.from_numpy(keep_U[site.units][alive_U[site.units]]).to(weight.device)
    removal = Removal(weight, keep)
    with torch.inference_mode():
        if isinstance(compensator, TextCompensator):
            repair = compensator.repair(removal, Statistic(totals[site.name], num_tokens))
        else:
            assert isinstance(compensator, WeightCompensator)  # the registry admits no others
            repair = compensator.repair(removal)
    wanted = {"weight": (len(weight), int(keep.sum()), weight.shape[2]), "bias": (len(weight),)}
    for what, shape in wanted.items():
        given = getattr(repair, what)
        if given is not None and (given.shape != shape or not given.isfinite().all()):
            raise BonsaiError(
                f"The compensator {compensator.name!r} must give {site.name} a {what} of {shape} finite numbers; it "
                f"returned {tuple(given.shape)} with {int((~given.isfinite()).sum())} that are not finite."
            )
    return repair


def input_totals(
    subject: Subject,
    passes: Passes,
    reader: InputPrior | LayerPrior | InputCompensator,
    windows_NT: NDArray[np.int64],
    keep_U: NDArray[np.bool_],
) -> dict[str, Tensor]:
    """Per site, the sum over all tokens of what `reader` accumulates under `keep_U`, of the units kept."""
    totals: dict[str, Tensor] = {}
    batch: dict[str, Tensor] = {}  # overwritten, not added to, when a batch is repeated after an error
    with subject.masked(keep_U), ExitStack() as hooks:
        for hook in _hooks(subject, reader, batch):
            hooks.enter_context(hook)
        for _ in passes.batches(windows_NT):
            for name, statistic in batch.items():
                totals[name] = totals[name] + statistic if name in totals else statistic
    if isinstance(reader, LayerPrior):
        return totals
    there = {name: total.to(subject.device) for name, total in totals.items()}
    return {site.name: subject.select_alive(site, keep_U, there[site.name], dim=0) for site in subject.sites_present()}


def on_input(subject: Subject, site: Site, receive: Callable[[Tensor], None]) -> RemovableHandle:
    """A hook that passes on what a site's output projection reads, [..., channels of all units]."""
    module, read = subject.reads(site)
    return module.register_forward_pre_hook(lambda module, args: receive(read(args)))


def _hooks(
    subject: Subject, reader: InputPrior | LayerPrior | InputCompensator, into: dict[str, Tensor]
) -> list[RemovableHandle]:
    """Hooks by which every forward pass leaves each site's statistic in `into`, in the widest float of the device.

    All sites of a layer get the statistic of a `LayerPrior`.
    """
    wide = torch.float32 if subject.device.type == "mps" else torch.float64
    sites = subject.sites_present()

    def of_inputs(site: Site, reader: InputPrior | InputCompensator) -> RemovableHandle:
        def receive(inputs: Tensor) -> None:
            by_unit = inputs.float().reshape(-1, inputs.shape[-1] // site.unit_channels, site.unit_channels)
            into[site.name] = reader.accumulate(by_unit).to(wide)

        return on_input(subject, site, receive)

    def of_layer(index: int, layer: nn.Module, prior: LayerPrior) -> RemovableHandle:
        names = [site.name for site in sites if site.layer == index]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            flat = [states.float().reshape(-1, states.shape[-1]) for states in (before, after)]
            into.update(dict.fromkeys(names, prior.accumulate(*flat).to(wide)))

        return layer.register_forward_hook(hook, with_kwargs=True)

    if isinstance(reader, LayerPrior):
        return [of_layer(index, layer, reader) for index, layer in subject.layers_present().items()]
    return [of_inputs(site, reader) for site in sites]
