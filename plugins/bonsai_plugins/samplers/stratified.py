"""Varies how much each site loses in a balanced design, so that the sites' effects separate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bonsai_core import Draw, Sampler, SampleRequest
from bonsai_plugins.samplers.windows import IN_TURN_HELP, Windows


class Stratified(Sampler):
    """Per site and pair, one of several shares of its window goes, the lowest priors first; then the complement.

    Over the pairs every site gets every share equally often, in an order of its own: a Latin hypercube over sites
    (McKay, Beckman and Conover 1979). A site whose window leaves in several steps shows how its price rises.
    """

    name: ClassVar[str] = "stratified"
    steps: int = Field(2, ge=1, description="Shares of a window are 0, 1/steps, ... 1.")
    in_turn: bool = Field(False, description=IN_TURN_HELP)

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        keep_MU = np.repeat(request.alive_U[None], request.num_submodels, axis=0)
        windows = Windows.of(request, rng, in_turn=self.in_turn)
        for units, size_P in zip(windows.units_S, windows.size_PS.T, strict=True):
            pairs = np.flatnonzero(size_P)
            if not len(pairs):
                continue
            # A random start, so that pairs that do not fill the last block of shares favour none.
            shares = (np.arange(len(pairs)) + rng.integers(self.steps + 1)) % (self.steps + 1) / self.steps
            for pair, share in zip(pairs, rng.permutation(shares), strict=True):
                size = size_P[pair]
                count = round(share * size)
                keep_MU[2 * pair, units[:count]] = False
                keep_MU[2 * pair + 1 : 2 * pair + 2, units[: size - count]] = False
        return Draw(keep_MU, np.arange(request.num_submodels) // 2)
