"""The error that least squares cannot repair: the optimal brain surgeon for structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bonsai_core import MomentPrior, SiteView, Statistic
from bonsai_plugins.second_moments import cholesky, damped

if TYPE_CHECKING:
    from torch import Tensor


class OptimalBrainSurgeon(MomentPrior):
    """Squared error of the output that remains after a unit's removal once the others are re-fitted.

    Units go greedily, the cheapest first: with H the damped second moments of the site's input, removing the channels G
    of a unit costs tr(W_G ((H^-1)_GG)^-1 W_G'), after which W and H^-1 are those of the site without it. Hassibi and
    Stork 1992; for structures Kurtic et al. 2023 (ZipLM), arXiv:2302.04089, Algorithm 1. Where we differ: a step takes
    several units at once, and errors are relative to the token's hidden state.
    """

    name: ClassVar[str] = "obs"
    damping: float = Field(1e-3, gt=0, description="Relative to the mean square of the input's channels.")
    steps: int = Field(32, ge=1, description="Steps in which units are removed; fewer are faster, more are greedier.")

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        import torch

        units, channels = site.weight.shape[1:]
        # The factor needs float64; its condition is the root of the moments', so the rest does not.
        inverse = torch.cholesky_inverse(cholesky(damped(statistic.total, self.damping)).float())
        weight = site.weight.flatten(1).T.contiguous().to(inverse.device)  # [channels of all units, out]
        left = torch.arange(units, device=weight.device)
        score = torch.zeros(units, dtype=inverse.dtype, device=weight.device)
        largest = score.new_zeros(())
        step = -(-units // self.steps)
        while len(left):
            error = _error_of_each(weight, inverse, channels)
            order = error.argsort(stable=True)
            gone, stay = order[:step], order[step:].sort().values
            score[left[gone]] = error[gone].clamp(min=largest)  # never below that of a unit removed earlier
            largest = torch.maximum(largest, error[gone].max())
            weight, inverse = _without(weight, inverse, _channels(gone, channels), _channels(stay, channels))
            left = left[stay]
        return score / statistic.num_tokens


def _error_of_each(weight: Tensor, inverse: Tensor, channels: int) -> Tensor:
    """tr(W_G ((H^-1)_GG)^-1 W_G') of every unit left, [units]."""
    from torch import cholesky_inverse

    units = len(inverse) // channels
    own = inverse.view(units, channels, units, channels).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    by_unit = weight.view(units, channels, -1)
    products = by_unit @ by_unit.mT  # W_G' W_G, [units, channels, channels]
    return (cholesky_inverse(cholesky(own)) * products).sum(dim=(1, 2)).clamp(min=0)


def _without(weight: Tensor, inverse: Tensor, gone: Tensor, stay: Tensor) -> tuple[Tensor, Tensor]:
    """The re-fitted weights and the inverse moments of what stays."""
    rows = inverse.index_select(0, gone)
    across = rows.index_select(1, stay)
    taken_over = across.cholesky_solve(cholesky(rows.index_select(1, gone)))
    left = inverse.index_select(0, stay).index_select(1, stay)
    return (
        weight.index_select(0, stay).addmm_(taken_over.T, weight.index_select(0, gone), alpha=-1),
        left.addmm_(across.T, taken_over, alpha=-1),
    )


def _channels(units: Tensor, channels: int) -> Tensor:
    from torch import arange

    return (units[:, None] * channels + arange(channels, device=units.device)).flatten()
