"""What priors and compensators see of a model and its text, and what they make of it, site by site."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import (
    Compensator,
    LayerCompensator,
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
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site


def site_scores(
    subject: Subject,
    prior: Prior,
    statistic: Statistic | None,
    site: Site,
    alive_U: NDArray[np.bool_],
    seed: int,
) -> NDArray[np.float64]:
    """Scores of the units of a site that are alive, float64 [units alive].

    Args:
        statistic: what the prior reads of the site; None if it needs no text.

    Raises:
        BonsaiError: the prior returned no tensor, a wrong shape, or negative or non-finite scores.
    """
    ids = np.flatnonzero(alive_U[site.units]) + site.first
    view = SiteView(subject.unit_weight(site, alive_U), ids, seed)
    with torch.inference_mode():
        if isinstance(prior, TextPrior):
            assert statistic is not None
            score_n = prior.score(view, statistic)
        else:
            assert isinstance(prior, WeightPrior)  # the registry admits no others
            score_n = prior.score(view)
    if fault := score_fault(score_n, len(ids)):
        raise BonsaiError(
            f"The prior {prior.name!r} must score {site.name} with {len(ids)} finite, non-negative numbers; {fault}. "
            f"See: bonsai plugins --check prior/{prior.name}"
        )
    score: NDArray[np.float64] = score_n.cpu().double().numpy()
    return score


def score_fault(score: object, num_units: int) -> str | None:
    """What is wrong with what a prior returned for a number of units; None if nothing is."""
    if not isinstance(score, Tensor):
        return f"it returned {shown(type(score).__name__)}, which is not a tensor"
    if score.shape != (num_units,):
        return f"it returned shape {shown(tuple(score.shape))} instead of ({num_units},)"
    if bad := int((~score.isfinite()).sum()):
        return f"{bad} of {num_units} are inf or NaN"
    if negative := int((score < 0).sum()):
        return f"{negative} of {num_units} are negative (least {float(score.min()):.4g})"
    return None


def site_repair(
    subject: Subject,
    compensator: Compensator,
    statistic: Statistic | None,
    site: Site,
    alive_U: NDArray[np.bool_],
    keep_U: NDArray[np.bool_],
) -> Repair:
    """What a site gets for losing every unit that is alive but not kept.

    Args:
        statistic: what the compensator reads of the site; None if it needs no text.

    Raises:
        BonsaiError: the compensator returned a wrong shape, or numbers that are not finite.
    """
    weight = subject.unit_weight(site, alive_U)
    keep = torch.from_numpy(keep_U[site.units][alive_U[site.units]]).to(weight.device)
    removal = Removal(weight, keep)
    with torch.inference_mode():
        if isinstance(compensator, TextCompensator):
            assert statistic is not None
            repair = compensator.repair(removal, statistic)
        else:
            assert isinstance(compensator, WeightCompensator)  # the registry admits no others
            repair = compensator.repair(removal)
    wanted = {"weight": (len(weight), int(keep.sum()), weight.shape[2]), "bias": (len(weight),)}
    return _checked(compensator, site, repair, wanted)


def layer_repair(
    subject: Subject,
    compensator: LayerCompensator,
    site: Site,
    keep_U: NDArray[np.bool_],
    statistic: Statistic,
    missing: Tensor,
) -> Repair:
    """What a site gets for the layers behind it that have left, on top of its own repair; see `missing_behind`.

    Raises:
        BonsaiError: as for `site_repair`.
    """
    weight = subject.unit_weight(site, keep_U)
    with torch.inference_mode():
        repair = Repair(compensator.make_up(weight, statistic, missing))
    return _checked(compensator, site, repair, {"weight": tuple(weight.shape)})


def _checked(compensator: Compensator, site: Site, repair: Repair, wanted: Mapping[str, tuple[int, ...]]) -> Repair:
    for what, shape in wanted.items():
        given = getattr(repair, what)
        if given is not None and (given.shape != shape or not given.isfinite().all()):
            raise BonsaiError(
                f"The compensator {compensator.name!r} must give {site.name} a {what} of {shape} finite numbers; it "
                f"returned {tuple(given.shape)} with {int((~given.isfinite()).sum())} that are not finite."
            )
    return repair
