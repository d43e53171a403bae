"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    Attributes:
        topic: what it belongs to, such as ``packages``.
        name: what was looked at.
        found: what there is, in words.
        grade: ``broken`` is what Bonsai cannot work with; ``missing`` is optional; a ``note`` may surprise.
        advice: what to do, a sentence or a command; "" if nothing has to be done.
    """

    topic: str
    name: str
    found: str
    grade: Grade = "ok"
    advice: str = ""
