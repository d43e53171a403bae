"""Independent coin flips: the control without knowledge."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bonsai_core import Draw, Sampler, SampleRequest


class Bernoulli(Sampler):
    """Every living unit is dropped with probability p, independently of all others and of the prior."""

    name: ClassVar[str] = "bernoulli"

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        shape = (request.num_submodels, len(request.table))
        keep_MU = request.alive_U & (rng.random(shape) >= request.drop_fraction)
        for site, minimum in zip(request.table, request.minimum_S, strict=True):
            alive = np.flatnonzero(request.alive_U[site.units]) + site.first
            for keep_U in keep_MU:
                dropped = alive[~keep_U[alive]]
                missing = min(int(minimum), len(alive)) - (len(alive) - len(dropped))
                if missing > 0:
                    keep_U[rng.choice(dropped, missing, replace=False)] = True
        return Draw(keep_MU, np.arange(request.num_submodels))
