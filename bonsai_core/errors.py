"""Errors for users: each says what is wrong, what is available, what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

LONGEST_VALUE = 200  # characters of a value that a message repeats
LONGEST_MESSAGE = 8_000  # characters


class BonsaiError(Exception):
    """Something that the user can fix. The message is complete; the command line prints it without a traceback.

    Args:
        message: what is wrong and what to do; of one longer than `LONGEST_MESSAGE`, the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message, LONGEST_MESSAGE))


class DamagedError(BonsaiError):
    """A file's contents are not what was written to it, or it was never ours."""


class UnknownNameError(BonsaiError):
    """A name that nothing is registered under.

    Args:
        kind: of what was looked up, in the singular ("prior", "data set").
        available: all names that would have worked.
        hint: one more sentence on what to do.
        near: more names that would have worked, too many to list: one is suggested if it is similar.
    """

    def __init__(
        self, kind: str, name: str, available: Iterable[str], hint: str = "", *, near: Iterable[str] = ()
    ) -> None:
        names = sorted(available)
        similar = difflib.get_close_matches(name[:LONGEST_VALUE], [*names, *near], n=1)
        guess = f" Did you mean {similar[0]!r}?" if similar else ""
        listing = ", ".join(names) if names else "none"
        super().__init__(f"There is no {kind} {shown(name)}.{guess} Available: {listing}.{' ' + hint if hint else ''}")


def shown(value: object) -> str:
    """A value as messages repeat it: its `repr`, at most `LONGEST_VALUE` characters, made without writing out more."""
    return shortened(_LIMITS.repr(value), LONGEST_VALUE)


def shortened(text: str, most: int = LONGEST_VALUE) -> str:
    """A text of at most `most` characters; of a longer one, the middle is left out."""
    if len(text) <= most:
        return text
    kept = most - len(" ... ")
    return f"{text[: kept - kept // 3]} ... {text[len(text) - kept // 3 :]}"


class _Limits(reprlib.Repr):
    """As `repr`, but neither long nor deep, and also for whole numbers that Python refuses to print."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, LONGEST_VALUE, LONGEST_VALUE
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 20

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() < 600 else f"a whole number of {value.bit_length():,} bits"


_LIMITS = _Limits()
