"""No preference."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bonsai_core import SiteView, WeightPrior

if TYPE_CHECKING:
    from torch import Tensor


class Uniform(WeightPrior):
    """The same score for every unit: whatever is learnt comes from the measurements.

    The uninformative prior of Dery et al. 2024, arXiv:2402.05406, section 4.3.
    """

    name: ClassVar[str] = "uniform"

    def score(self, site: SiteView) -> Tensor:
        return site.weight.new_ones(site.weight.shape[1])
