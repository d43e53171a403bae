"""Text that is not ours, made safe to show: characters that would steer a terminal, or hide, are spelled out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

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

    def harmless(c: str) -> bool:
        return unicodedata.category(c) not in STEERING or (lines and c in LAYOUT)

    return "".join(c if harmless(c) else c.encode("unicode_escape").decode("ascii") for c in shown)


def last_parts(names: Iterable[str]) -> dict[str, str]:
    """By name of a model its last part, such as ``Llama-3.2-1B``; where two have the same one, all stay whole."""
    shown = {name: PurePath(name).name or name for name in names}
    return shown if len(set(shown.values())) == len(shown) else {name: name for name in shown}
