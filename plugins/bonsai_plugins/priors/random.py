"""No prior knowledge: the control."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bonsai_core import SiteView, WeightPrior

if TYPE_CHECKING:
    from torch import Tensor


class Random(WeightPrior):
    """Uniform noise per unit; the score depends on the seed and the unit's number alone."""

    name: ClassVar[str] = "random"

    def score(self, site: SiteView) -> Tensor:
        noise = np.random.default_rng(site.seed).random(int(site.unit_ids.max()) + 1)
        return site.weight.new_tensor(noise[site.unit_ids])
