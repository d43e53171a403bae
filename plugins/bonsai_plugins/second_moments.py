"""Algebra on second moments [channels, channels]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def damped(moments: Tensor, damping: float) -> Tensor:
    """A copy with `damping` times the mean diagonal added to the diagonal, in float64 (float32 on MPS).

    Channels that never carry anything are left with the damping; if none ever does, it counts as 1.
    """
    import torch

    wide = moments.to(torch.float32 if moments.device.type == "mps" else torch.float64, copy=True)
    mean = wide.diagonal().mean()
    wide.diagonal().add_(damping * mean if mean > 0 else 1.0)
    return wide


def cholesky(moments: Tensor) -> Tensor:
    """Lower Cholesky factors [..., channels, channels]; with as little more damping as rounding makes necessary."""
    import torch

    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(moments)
    more = moments.diagonal(dim1=-2, dim2=-1).mean() * torch.finfo(moments.dtype).eps
    while info.any():
        more = more * 10
        lifted = moments.clone()
        lifted.diagonal(dim1=-2, dim2=-1).add_(more)
        factor, info = torch.linalg.cholesky_ex(lifted)
    return factor
