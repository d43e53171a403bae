"""Size of the weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import SiteView, WeightPrior

if TYPE_CHECKING:
    from torch import Tensor


class Magnitude(WeightPrior):
    """Mean |weight| of the columns of the output projection that read a unit; needs no data.

    Structured magnitude pruning in the form of Li et al. 2016, arXiv:1608.08710 (sum of absolute weights of a
    filter), a mean here.
    """

    name: ClassVar[str] = "magnitude"

    def score(self, site: SiteView) -> Tensor:
        return site.weight.abs().mean(dim=(0, 2))
