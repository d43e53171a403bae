"""Samplers: which sub-models to measure."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts.component import Component
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class Evidence:
    """What the round's measurements so far say, for samplers that look where the decision is open.

    Attributes:
        importance_U: the estimator's posterior mean, float64 [U]; NaN for units that were not perturbed yet.
        spread_U: its posterior standard deviation, float64 [U]; NaN likewise.
    """

    importance_U: NDArray[np.float64]
    spread_U: NDArray[np.float64]


@dataclass(frozen=True)
class SampleRequest:
    """What a sampler is asked for in one round.

    Attributes:
        table: all units of the dense model.
        alive_U: units that no earlier round removed, bool [U].
        prior_U: this round's prior, float64 [U]; larger means keep. Dead units hold 0.
        drop_fraction: share of the removable parameters that the sampler should make leave this round (the
            paper's p_iter), 0..0.5.
        num_submodels: how many sub-models to draw (the paper's M); for a sequential sampler, how many are left.
        minimum_S: units that every site keeps, int64 [S]; if fewer are alive, all of those.
        rank: what selection will rank by: ``importance``, or importance per parameter (``density``).
        evidence: for a sequential sampler, what the sub-models measured so far say; None at first.
    """

    table: UnitTable
    alive_U: NDArray[np.bool_]
    prior_U: NDArray[np.float64]
    drop_fraction: float
    num_submodels: int
    minimum_S: NDArray[np.int64]
    rank: Literal["importance", "density"] = "density"
    evidence: Evidence | None = None


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
    """Draws sub-models around the current one.

    Attributes:
        sequential: True if the sampler may draw fewer sub-models than it is asked for. Those are measured, the
            estimator is fitted to all of the round's measurements, and the sampler is called again with the `evidence`,
            until nothing is left to draw or it draws none, as the decision has settled. Needs an estimator that
            `gives_spread`.
    """

    sequential: ClassVar[bool] = False

    @abstractmethod
    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        """Draw `request.num_submodels` keep vectors (a sequential sampler: at most), with no randomness but `rng`."""
