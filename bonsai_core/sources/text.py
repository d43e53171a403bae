"""What a text is, and how one text is divided into a part to calibrate on and a part to evaluate on."""

from __future__ import annotations

import hashlib
import itertools
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bonsai_core.errors import BonsaiError

Part = Literal["calibration", "evaluation"]

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
EVALUATION_FRACTION = 0.2


@dataclass(frozen=True)
class Text:
    """One stretch of text and where it is from.

    Attributes:
        name: the data set as it was asked for: `builtin`, a path, a hub id.
        split: the hub's split name; for `builtin`, `calibration` or `evaluation`; for a file, `whole`, or
            `head` (the first 80 %) or `tail` (the last 20 %).
        text: the text itself.
    """

    name: str
    split: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def num_characters(self) -> int:
        """Length in Unicode code points."""
        return len(self.text)

    def describe(self) -> dict[str, str | int]:
        """What a report records: everything needed to tell whether another run used the same text."""
        facts: dict[str, str | int] = {
            "name": self.name,
            "split": self.split,
            "sha256": self.sha256,
            "characters": self.num_characters,
        }
        if self.name == "builtin":
            facts["python"] = platform.python_version()  # its documentation changes between versions
        return facts


def join(documents: Iterable[str]) -> tuple[str, list[int]]:
    """Documents separated by a blank line, and where each but the first starts."""
    parts = list(documents)
    ends = itertools.accumulate(len(part) + 2 for part in parts)
    return "\n\n".join(parts), list(ends)[:-1]


def divide(name: str, text: str, starts: list[int], part: Part) -> Text:
    """The head or the tail of a text, cut at the start in `starts` nearest to 80 % of its length."""
    if not starts:
        raise BonsaiError(
            f"{name!r} is a single paragraph, so nothing can be held out of it for evaluation. Separate its "
            "paragraphs by blank lines, or give another text with --eval-dataset."
        )
    wanted = (1 - EVALUATION_FRACTION) * len(text)
    cut = min(starts, key=lambda start: abs(start - wanted))
    return Text(name, "head", text[:cut]) if part == "calibration" else Text(name, "tail", text[cut:])
