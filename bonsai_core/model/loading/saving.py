"""The checkpoint of a run or an adaptation: written, then loaded again, once each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bonsai_core.checkpoint import weight_bytes
from bonsai_core.events import Stage
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step


def is_saved(ledger: Ledger) -> bool:
    """Whether the checkpoint is as it was saved, neither deleted nor cut short by a power cut."""
    saved = ledger.journal.get("save")
    return saved is not None and bool(saved["bytes"] == weight_bytes(ledger.directory.model_path))


def save_once(ledger: Ledger, write: Callable[[Path], int]) -> bool:
    """Have the checkpoint written unless it is as it was saved; whether it was written.

    Args:
        write: writes it to a path and returns how many parameters it has.

    Raises:
        BonsaiError: it cannot be written.
    """
    path, saved = ledger.directory.model_path, is_saved(ledger)

    def save() -> Payload:
        with ledger.directory.writing(f"the checkpoint {path}"):
            parameters = write(path)
        return {"bytes": weight_bytes(path), "parameters": parameters}

    ledger.begin(Stage.SAVE, "checkpoint")
    ledger.once(Step("save"), save, holds=lambda _: saved)
    return not saved


def verify_once(ledger: Ledger, verify: Callable[[], Payload], *, again: bool) -> None:
    """Have the checkpoint verified, unless an earlier process did.

    Args:
        verify: loads it as its users will, and raises BonsaiError if it is not the model that was measured.
        again: verify it all the same, because it was written again.
    """
    ledger.begin(Stage.VERIFY, "the checkpoint, loaded again")
    ledger.once(Step("verify"), verify, holds=lambda _: not again)
