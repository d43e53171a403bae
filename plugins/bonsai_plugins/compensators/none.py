"""No repair."""

from __future__ import annotations

from typing import ClassVar

from bonsai_core import Compensator, Removal, Repair


class NoRepair(Compensator):
    """What is kept stays as it is, as in the paper."""

    name: ClassVar[str] = "none"
    repairs: ClassVar[bool] = False

    def repair(self, removal: Removal) -> Repair:
        return Repair()
