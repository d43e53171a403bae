"""How an optimiser step's windows are spread over ranks and passes."""

from __future__ import annotations

from dataclasses import dataclass

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.errors import BonsaiError


@dataclass(frozen=True)
class Passes:
    """The passes of every rank in an optimiser step.

    Attributes:
        windows: of a forward and backward pass.
        per_step: passes.
    """

    windows: int
    per_step: int

    @classmethod
    def of(cls, config: AdaptConfig, ranks: int) -> Passes:
        """As configured; a step has the same windows, whatever the number of ranks.

        Raises:
            BonsaiError: they cannot be spread evenly.
        """
        batch, given = config.batch_size, config.micro_batch_size
        own, left = divmod(batch, ranks)
        if left:
            fewer, more = own * ranks, (own + 1) * ranks
            raise BonsaiError(
                f"The {batch} windows of a step (--batch-size) cannot be spread evenly over {ranks} processes. Start "
                f"{_listed(_divisors(batch))} of them; or begin with --batch-size "
                f"{_listed([n for n in (fewer, more) if n])}."
            )
        windows = given or own
        if own % windows:
            raise BonsaiError(
                f"With {ranks} processes, each has {own} of the {batch} windows of a step (--batch-size), which passes "
                f"of {windows} (--micro-batch-size) do not divide. Give --micro-batch-size {_listed(_divisors(own))}; "
                f"when resuming, set micro_batch_size in adapt.yaml."
            )
        return cls(windows, own // windows)

    @property
    def fewer(self) -> int:
        """The largest number of windows per pass below the present one that also divides the step's."""
        return max([n for n in _divisors(self.windows * self.per_step) if n < self.windows], default=1)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _listed(numbers: list[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last
