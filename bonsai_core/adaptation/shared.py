"""The ledger of an adaptation as all of its ranks use it: the first one keeps it, the others receive what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bonsai_core.adaptation.ranks import Ranks
from bonsai_core.events import Event, Stage
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step


@dataclass(frozen=True)
class SharedLedger:
    """Steps that the first rank computes for all.

    Args:
        kept: the first rank's ledger; None on the others, which write nothing and notify nobody.
    """

    ranks: Ranks
    kept: Ledger | None = None

    @property
    def of_first(self) -> Ledger:
        """The ledger itself, for what only the first rank does."""
        assert self.kept is not None
        return self.kept

    def once(self, step: Step, compute: Callable[[], Payload]) -> Payload:
        """The payload of a step, computed by the first rank unless it is in the journal; the others wait for it.

        Raises:
            BonsaiError: the journal cannot be written, or another rank has failed.
        """
        return self.ranks.share(lambda: self.of_first.once(step, compute))

    def together(self, step: Step, compute: Callable[[], Payload]) -> Payload:
        """The same of what all ranks compute together, as they must with a sharded model.

        Raises:
            BonsaiError: the journal cannot be written, or another rank has failed.
        """
        if not self.ranks.share(lambda: step in self.of_first) and not self.ranks.is_first:
            compute()
        return self.once(step, compute)

    def record(self, step: Step, payload: Payload, elapsed_s: float) -> None:
        """Journal what the first rank has timed.

        Raises:
            BonsaiError: the journal cannot be written.
        """
        if self.kept is not None:
            self.kept.record(step, payload, elapsed_s)

    def begin(self, stage: Stage, text: str) -> None:
        """Notify observers of what comes next."""
        if self.kept is not None:
            self.kept.begin(stage, text)

    def notify(self, event: Event) -> None:
        """Notify observers."""
        if self.kept is not None:
            self.kept.notify(event)

    def warn(self, text: str) -> None:
        """Notify observers of what the user should know."""
        if self.kept is not None:
            self.kept.warn(text)

    def skip(self, tokens: int) -> None:
        """Count tokens that this process does not compute."""
        if self.kept is not None:
            self.kept.skip(tokens)
