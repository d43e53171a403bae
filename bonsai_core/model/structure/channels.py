"""The channels of a site's units, in a tensor's last dimension: [.., channels] and [.., units, channels of each]."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.units import Site


def by_unit(tensor: Tensor, site: Site) -> Tensor:
    """[..., units, channels], of the model's own order; a view where units lie side by side."""
    stretches = tensor.reshape(*tensor.shape[:-1], site.stretches, -1, site.unit_channels // site.stretches)
    return stretches.movedim(-3, -2).flatten(-2)  # [..., stretches, units, block] -> [..., units, channels]


def in_model_order(tensor: Tensor, site: Site) -> Tensor:
    """[..., all channels], as the model has them, of [..., units, channels]."""
    units = tensor.reshape(*tensor.shape[:-1], site.stretches, -1)
    return units.movedim(-2, -3).flatten(-3)


def numbers_of(keep: NDArray[np.bool_]) -> Tensor:
    """The numbers of the units kept, int64, of a vector over units."""
    return torch.from_numpy(np.flatnonzero(keep))


def select_units(tensor: Tensor, keep: NDArray[np.bool_], dim: int) -> Tensor:
    """The units kept, of a tensor that has units in a dimension; the tensor itself where that is all of them."""
    return tensor if keep.all() else tensor.index_select(dim, numbers_of(keep).to(tensor.device))
