"""What a selection decides, and what it decides by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.selection.rules import Rules
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class SelectionProblem:
    """Which units shall leave.

    Attributes:
        alive_U: units that may still go, bool [U].
        importance_U: float64 [U]; larger means keep; NaN for units that were not measured, which go last.
        prior_U: float64 [U]; breaks ties, and orders unmeasured units.
        sparsity: fraction of the decoder's parameters, or of what else the table counts, to be gone afterwards, 0..1.
        whole_importance_W: of all living units of each of `rules.wholes` together, float64 [W]; NaN for those that were
            not measured, which go after everything else; None: none was.
    """

    table: UnitTable
    alive_U: NDArray[np.bool_]
    importance_U: NDArray[np.float64]
    prior_U: NDArray[np.float64]
    sparsity: float
    rules: Rules
    whole_importance_W: NDArray[np.float64] | None = None

    @property
    def params_to_remove(self) -> int:
        """Parameters that have to leave; not positive if the sparsity is reached."""
        return self.table.amount(self.sparsity) - self.table.removed_params(self.alive_U)
