"""Samplers: which sub-models to measure."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts.component import Component
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class SampleRequest:
    """What a sampler is asked for in one round.

    Attributes:
        table: all units of the dense model.
        alive_U: units that no earlier round removed, bool [U].
        prior_U: this round's prior, float64 [U]; larger means keep. Dead units hold 0.
        drop_fraction: share of the living units that this round will remove (the paper's p), 0..1.
        num_submodels: how many sub-models to draw (the paper's M).
        min_units: every site keeps at least this many units.
    """

    table: UnitTable
    alive_U: NDArray[np.bool_]
    prior_U: NDArray[np.float64]
    drop_fraction: float
    num_submodels: int
    min_units: int = 1


@dataclass(frozen=True)
class Draw:
    """The sub-models to measure.

    Attributes:
        keep_MU: bool [M, U]; dead units are False in every row.
        group_M: int64 [M]; sub-models drawn together (a draw and its complement) share a number, and
            cross-validation never separates them.
    """

    keep_MU: NDArray[np.bool_]
    group_M: NDArray[np.int64]


class Sampler(Component):
    """Draws sub-models around the current one."""

    @abstractmethod
    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        """Draw `request.num_submodels` keep vectors, using no randomness but `rng`."""
