"""What a run counts, and how much of it may be left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.settings.quantities import Target
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class Budget:
    """A priced unit table, and the fraction of the priced whole that has to leave.

    Attributes:
        option: as users give it: ``--sparsity 0.2``, ``--target-kv 0.5x``.
        table: the model's units at the prices of what is counted.
        fraction: of the table's whole, `decoder_params`, that has to leave, 0..1.
        target: what is counted; None for a sparsity, which is of the parameters of decoder layers.
        is_relative: whether it was given as a share of what the dense model has.
    """

    option: str
    table: UnitTable
    fraction: float
    target: Target | None = None
    is_relative: bool = True

    @property
    def goal(self) -> str:
        """In words."""
        if self.target is None:
            return f"{self.fraction:.1%} sparsity"
        return f"at most {self.target.shown(self.most)}"

    def describe(self) -> str:
        """What a run with it would do."""
        if self.target is None:
            removed = self.fraction * self.whole
            return f"Would remove {self.fraction:.1%} of {self.whole:,} decoder parameters ({removed:,.0f})"
        most, whole = self.target.shown(self.most), self.target.quantity.shown(self.whole)
        return f"Would leave at most {most} ({self.most / self.whole:.2f}x of the dense model's {whole})"

    @property
    def whole(self) -> int:
        """What the dense model has."""
        return self.table.decoder_params

    @property
    def most(self) -> int:
        """What may be left at most."""
        return self.whole - self.table.amount(self.fraction)

    def left(self, keep_U: NDArray[np.bool_]) -> int:
        """What a keep vector leaves."""
        return self.whole - self.table.removed_params(keep_U)
