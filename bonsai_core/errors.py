"""Errors meant for the person at the keyboard: each says what is wrong, what is available, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BonsaiError(Exception):
    """Something the user can mend. The message is complete; the command line prints it without a traceback."""


class DamagedError(BonsaiError):
    """A file that does not hold what was written to it, or was never ours."""


class UnknownNameError(BonsaiError):
    """A name that nothing is registered under.

    Args:
        kind: what was being looked up, in the singular ("prior", "data set").
        name: what was asked for.
        available: every name that would have worked.
        hint: one more sentence on what to do.
    """

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = "") -> None:
        names = sorted(available)
        near = difflib.get_close_matches(name, names, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        listing = ", ".join(names) if names else "none"
        super().__init__(f"There is no {kind} {name!r}.{guess} Available: {listing}.{' ' + hint if hint else ''}")
