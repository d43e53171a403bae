"""What an adaptation measures of the models that it loads: perplexity, and whether they have changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.shared import SharedLedger
from bonsai_core.events import TokensDone
from bonsai_core.model.forward.chunks import Chunks, default_tokens
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.storage.fingerprint import fingerprint
from bonsai_core.rundir import refuse_changes
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step


def passes_over(model: Any, ledger: Ledger | SharedLedger, tokens: int | None = None) -> Passes:
    """Forward passes of at most so many tokens, of which observers are notified; None: as many as the device likes."""
    tokens = tokens or default_tokens(input_device(model))
    return Passes(model, Chunks(tokens, ledger.warn, lambda tokens: ledger.notify(TokensDone(tokens))))


def perplexity(
    job: AdaptJob, of: str, passes: Passes, once: Callable[[Step, Callable[[], Payload]], Payload]
) -> float | None:
    """Perplexity on the evaluation windows; None if it is not finite.

    Args:
        of: ``teacher``, ``adapted`` or a step's number.
        once: gives the payload of a step, computed unless it is known.
    """

    def compute() -> Payload:
        value = passes.predictions.perplexity(job.evaluation_NL)
        return {"perplexity": value if math.isfinite(value) else None}

    step = Step(f"evaluate/{of}", tokens=job.evaluation_NL.size)
    value: float | None = once(step, compute)["perplexity"]
    return value


def check_weights(what: str, model: Any, ledger: SharedLedger) -> None:
    """Refuse to go on with another ``model`` or ``teacher`` than the adaptation was begun with, or the first rank has.

    Raises:
        BonsaiError: they have changed.
    """
    now = fingerprint(model)
    begun = ledger.once(Step(f"{what}-weights"), lambda: {"sha256": now})["sha256"]
    ledger.ranks.in_turn(lambda: refuse_changes(what, begun, now))
