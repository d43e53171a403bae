"""The model that repairs start from, beside the one under pruning, one decoder layer at a time."""

from __future__ import annotations

from typing import final

from bonsai_core.model.forward.lockstep import Lockstep


@final
class UnrepairedLayers:
    """A sweep through its layers that follows a sweep through those of the model under pruning.

    Close it, so that an exception leaves no weights behind.

    Args:
        lockstep: the model's, the dense one as a rule.
        beside: whether its weights are others than those of the model under pruning, in whose sweep its layers have
            their weights otherwise.
    """

    def __init__(self, lockstep: Lockstep, *, beside: bool) -> None:
        self.lockstep = lockstep
        self._turns = lockstep.turns() if beside else None

    def reach(self, number: int) -> None:
        """Have the weights of a layer at hand; those of earlier ones are released."""
        if self._turns is not None:
            next(turn for turn in self._turns if turn == number)

    def close(self) -> None:
        """Release the weights."""
        if self._turns is not None:
            self._turns.close()
