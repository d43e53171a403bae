"""What must not change between the processes that work on one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError, shown


def refuse_code(path: Path | str, *, wanted: bool, trusted: bool) -> None:
    """Check that code which comes with a model runs only if the present user allows it, whoever started the run.

    Args:
        wanted: whether the settings in the run directory ask for such code.
        trusted: whether the user allows it.

    Raises:
        BonsaiError: it is wanted, and not allowed.
    """
    if wanted and not trusted:
        raise BonsaiError(
            f"{path} was started with --trust-remote-code, so that code which comes with its model would run. If you "
            f"trust it: bonsai resume {path} --trust-remote-code"
        )


def refuse_changes(what: str, before: Mapping[str, Any] | str, now: Mapping[str, Any] | str) -> None:
    """Check that something is as it was when the run started.

    Raises:
        BonsaiError: it is not; the message names the changes.
    """
    if before == now:
        return
    if isinstance(before, str) or isinstance(now, str):
        changes = "its weights are not those the run started with"
    else:
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        changes = "; ".join(f"{name} was {shown(before.get(name))}, is {shown(now.get(name))}" for name in names)
    raise BonsaiError(
        f"The {what} of this run has changed, so it cannot be resumed: {changes}. "
        f"Put it back, or start a new run with another --out."
    )
