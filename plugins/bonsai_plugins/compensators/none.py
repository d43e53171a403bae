"""No repair."""

from __future__ import annotations

from typing import ClassVar

from bonsai_core import Removal, Repair, WeightCompensator


class NoRepair(WeightCompensator):
    """Kept weights do not change, as in the paper."""

    name: ClassVar[str] = "none"

    def repair(self, removal: Removal) -> Repair:
        return Repair()
