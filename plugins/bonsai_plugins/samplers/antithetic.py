"""The paper's sampler: perturbs the lowest units of each site, in pairs of complementary draws."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import IN_TURN_HELP, LEVEL_HELP, Level, Windows, antithetic_pairs


class Antithetic(Sampler):
    """Per site: the top 1-2p is never perturbed, the rest is drawn by the prior, each draw with its complement.

    Dery et al. 2024, arXiv:2402.05406, section 3.1 and Algorithm 1. The window is 2p of the living units, where p is
    the share of them that this round removes. A site whose window rounds to nothing (a layer's 3 KV groups at p = 0.05)
    is not perturbed; with `in_turn`, it has a window of one unit in some of the pairs, all sites in turn, so that the
    share holds for the kind.

    Where we differ, by default: with far fewer sub-models than units in the windows, a regression over single units is
    mostly noise. Then whole windows are switched, half of the sites in a draw and the others in its complement, which
    leaves one unknown per site; inside a site the prior's order decides.
    """

    name: ClassVar[str] = "antithetic"
    level: Level = Field("auto", description=LEVEL_HELP)
    in_turn: bool = Field(False, description=IN_TURN_HELP)

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        return antithetic_pairs(
            request, Windows.of(request, rng, in_turn=self.in_turn), request.prior_U, self.level, rng
        )
