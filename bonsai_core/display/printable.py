"""Text that is not ours, made safe to show: what would steer a terminal, or hide, is spelled out."""

from __future__ import annotations

import unicodedata

STEERING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of control, format (such as changes of direction), surrogate, private and other characters."""
LAYOUT = "\n\t"


def visible(text: object, *, lines: bool = False, most: int | None = None) -> str:
    r"""The text with every character that steers or hides as an escape, such as ``\x1b`` or ``\u202e``.

    Args:
        lines: line breaks and tabs stay.
        most: characters after which it is cut.
    """
    given = str(text)
    shown = given if most is None or len(given) <= most else f"{given[: most - 1]}…"
    return "".join(
        _escaped(c) if unicodedata.category(c) in STEERING and not (lines and c in LAYOUT) else c for c in shown
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
