"""Algebra on second moments [channels, channels]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def damped(moments: Tensor, damping: float) -> Tensor:
    """A float64 copy with `damping` times the mean diagonal added to the diagonal; on the CPU if they are on MPS.

    Channels that are always 0 have the damping alone; if all are, 1 is added.
    """
    device = "cpu" if moments.device.type == "mps" else moments.device
    wide = moments.to(device, copy=True).double()
    mean = wide.diagonal().mean()
    wide.diagonal().add_(damping * mean if mean > 0 else 1.0)
    return wide


def cholesky(moments: Tensor) -> Tensor:
    """Lower Cholesky factors [..., channels, channels], with more damping only if rounding makes it necessary."""
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
