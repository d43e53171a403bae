"""Least-squares repair: what is kept makes up for what is removed, as far as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bonsai_core import LayerCompensator, Removal, Repair, Statistic
from bonsai_plugins.second_moments import cholesky, damped

if TYPE_CHECKING:
    from torch import Tensor


class LeastSquares(LayerCompensator):
    """Re-fits the kept columns of the output projection, so that its output on calibration text changes little.

    With H the second moments of its input, K the kept and D the removed channels,
    W_K <- W_K + W_D H_DK (H_KK + damping)^-1 minimises the squared error of the output plus the damping times the
    squared change of the weights. Hassibi and Stork 1992 (optimal brain surgeon), for groups of columns as in Kurtic
    et al. 2023 (ZipLM), arXiv:2302.04089. Where we differ: errors are relative to the token's hidden state.

    Layers that have left are replaced by what the output projection in front of them can add of their effect: with M
    the moments between that and its input, W <- W + M (H + layer damping)^-1. Shopkhoev et al. 2025 (ReplaceMe),
    arXiv:2505.02819, fit a map of the projection's output likewise; where we differ, the projection itself is fitted.
    """

    name: ClassVar[str] = "least_squares"
    changes_weights: ClassVar[bool] = True
    damping: float = Field(1e-3, gt=0, description="Relative to the mean square of the input's channels.")
    layer_damping: float = Field(0.1, gt=0, description="The same where whole layers are made up for.")

    def repair(self, removal: Removal, statistic: Statistic) -> Repair:
        if removal.keep.all() or not removal.keep.any():
            return Repair()
        channels = removal.weight.shape[-1]
        moments = damped(statistic.total, self.damping)
        kept = removal.keep.repeat_interleave(channels).to(moments.device)
        weight = removal.weight.flatten(1).to(moments)
        explained = moments[kept][:, ~kept].cholesky_solve(cholesky(moments[kept][:, kept]))  # [kept, removed]
        return Repair(weight=(weight[:, kept] + weight[:, ~kept] @ explained.T).view(len(weight), -1, channels))

    def make_up(self, weight: Tensor, statistic: Statistic, missing: Tensor) -> Tensor:
        moments = damped(statistic.total, self.layer_damping)
        added = missing.flatten(1).to(moments).T.cholesky_solve(cholesky(moments)).T
        return weight + added.view_as(weight).to(weight)
