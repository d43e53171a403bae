"""Varies how much each site loses in a balanced design, so that the sites' effects separate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import windows_per_site


class Stratified(Sampler):
    """Per site and pair, one of several shares of its window goes, the lowest priors first; then the complement.

    Over the pairs every site gets every share equally often, in an order of its own: a Latin hypercube over sites
    (McKay, Beckman and Conover 1979). A site whose window leaves in several steps shows how its price rises.
    """

    name: ClassVar[str] = "stratified"
    steps: int = Field(2, ge=1, description="Shares of a window are 0, 1/steps, ... 1.")

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        num_pairs = (request.num_submodels + 1) // 2
        keep_MU = np.repeat(request.alive_U[None], request.num_submodels, axis=0)
        for window in windows_per_site(request):
            # A random start, so that pairs that do not fill the last block of shares favour none.
            shares = (np.arange(num_pairs) + rng.integers(self.steps + 1)) % (self.steps + 1) / self.steps
            for pair, share in enumerate(rng.permutation(shares)):
                count = round(share * len(window))
                keep_MU[2 * pair, window[:count]] = False
                keep_MU[2 * pair + 1 : 2 * pair + 2, window[: len(window) - count]] = False
        return Draw(keep_MU, np.arange(request.num_submodels) // 2)
