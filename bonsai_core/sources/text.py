"""What a text is, and how one text is divided into a part to calibrate on and a part to evaluate on.

A text is a sequence of pieces, so that one that does not fit in memory is read a piece at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

from bonsai_core.errors import BonsaiError

Purpose = Literal["calibration", "evaluation"]

BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
EVALUATION_FRACTION = 0.2
PIECE = 2**18
"""Characters after which the next line starts another piece; small enough for a text to be sampled in many places."""
LARGE = 2**22
"""Characters. A longer text is tokenised a piece at a time, and only as far as needed: about a million tokens, for
whose tokenisation fast tokenizers take half a gigabyte."""


class Piece(Protocol):
    """Consecutive characters of a text, wherever they are."""

    @property
    def num_characters(self) -> int: ...

    def read(self) -> str: ...


@dataclass(frozen=True)
class Held:
    """A piece in memory."""

    content: str

    @property
    def num_characters(self) -> int:
        return len(self.content)

    def read(self) -> str:
        return self.content


@dataclass(frozen=True)
class Clipped:
    """Some consecutive characters of a piece."""

    piece: Piece
    start: int
    stop: int

    @property
    def num_characters(self) -> int:
        return self.stop - self.start

    def read(self) -> str:
        return self.piece.read()[self.start : self.stop]


@dataclass(frozen=True)
class Text:
    """One stretch of text and where it is from.

    Attributes:
        name: the data set as it was asked for: `builtin`, a path, a hub id.
        split: the hub's split name; for texts that ship with Python, `calibration` or `evaluation`; for a file,
            `whole`, or `head` (the first 80 %) or `tail` (the last 20 %).
        pieces: the text itself; each piece but the first starts at a line (or within a very long one).
        config: the hub data set's configuration, if one was named.
        column: of the hub data set; for chats in a file too.
        python: the version of Python that the text ships with; it differs between versions.
        chat: the text is conversations, one JSON list of messages a line, which a chat template renders.
        parts: of several texts with shares, each; `pieces` are those of all of them then.
        fractions: of the windows, one for each part; they add up to 1.
    """

    name: str
    split: str
    pieces: tuple[Piece, ...]
    config: str | None = None
    column: str | None = None
    python: str | None = None
    chat: bool = False
    parts: tuple[Text, ...] = ()
    fractions: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, name: str, split: str, content: str) -> Text:
        """A text in memory."""
        return cls(name, split, tuple(_cut(content)))

    @property
    def text(self) -> str:
        """The whole text, all of it in memory."""
        return "".join(piece.read() for piece in self.pieces)

    @property
    def texts(self) -> tuple[Text, ...]:
        """The parts, or the text itself."""
        return self.parts or (self,)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece.read().encode())
        return digest.hexdigest()

    @cached_property
    def num_characters(self) -> int:
        """Length in Unicode code points."""
        return sum(piece.num_characters for piece in self.pieces)

    @property
    def is_large(self) -> bool:
        """Whether the text is tokenised only as far as needed."""
        return self.num_characters > LARGE

    def describe(self) -> dict[str, Any]:
        """What a report records to tell whether another run used the same text."""
        facts: dict[str, Any] = {"name": self.name, "split": self.split, "sha256": self.sha256}
        facts["characters"] = self.num_characters
        where = {"config": self.config, "column": self.column, "python": self.python}
        facts |= {key: value for key, value in where.items() if value is not None}
        if self.parts:
            shares = zip(self.parts, self.fractions, strict=True)
            facts["parts"] = [{**part.describe(), "share": fraction} for part, fraction in shares]
        return facts

    def section(self, start: int, stop: int, split: str) -> Text:
        """The characters from `start` to before `stop`."""
        pieces: list[Piece] = []
        offset = 0
        for piece in self.pieces:
            size = piece.num_characters
            first, last = max(start - offset, 0), min(stop - offset, size)
            if first < last:
                pieces.append(piece if last - first == size else Clipped(piece, first, last))
            offset += size
        return replace(self, split=split, pieces=tuple(pieces))

    def equals(self, other: Text) -> bool:
        """Whether two texts have the same characters."""
        return self.num_characters == other.num_characters and self.sha256 == other.sha256

    def contains(self, other: Text) -> bool:
        """Whether another text, all of it, is somewhere in this one."""
        length = other.num_characters
        last = self.num_characters - length
        if last < 0 or not self.is_large:
            return last >= 0 and other.text in self.text
        places = self._places_of(other.section(0, PIECE, other.split).text)
        return any(self.section(at, at + length, self.split).equals(other) for at in places if at <= last)

    def _places_of(self, wanted: str) -> Iterator[int]:
        content, offset = "", 0
        for piece in self.pieces:
            keep = max(0, len(content) - len(wanted) + 1)  # all places before it have been searched
            content, offset = content[keep:] + piece.read(), offset + keep
            at = content.find(wanted)
            while at >= 0:
                yield offset + at
                at = content.find(wanted, at + 1)


def join(documents: Iterable[str]) -> tuple[str, list[int]]:
    """Documents separated by a blank line, and where each but the first starts."""
    parts = list(documents)
    ends = itertools.accumulate(len(part) + 2 for part in parts)
    return "\n\n".join(parts), list(ends)[:-1]


def paragraph_starts(pieces: Iterable[Piece]) -> Iterator[int]:
    """Where each paragraph but the first starts; blank lines before the text and after it do not count."""
    offset, space, begun = 0, "", False  # `space`: white space that ended the last piece and may go on in this one
    for piece in pieces:
        content = space + piece.read()
        body = content.rstrip()
        first = 0 if begun else len(content) - len(content.lstrip())
        yield from (offset + match.end() for match in BLANK_LINES.finditer(body, first))
        offset, space, begun = offset + len(body), content[len(body) :], begun or bool(body)


def divide(text: Text, starts: Iterable[int]) -> tuple[Text, Text]:
    """The head and the tail of a text, cut at the start in `starts` nearest to 80 % of its length."""
    wanted = (1 - EVALUATION_FRACTION) * text.num_characters
    cut = min(starts, key=lambda start: abs(start - wanted), default=None)
    if cut is None:
        raise BonsaiError(
            f"{text.name!r} is a single paragraph, so nothing can be held out of it for evaluation. Separate its "
            "paragraphs by blank lines, or give another text with --eval-dataset."
        )
    return text.section(0, cut, "head"), text.section(cut, text.num_characters, "tail")


def _cut(content: str) -> Iterator[Held]:
    """Pieces of a text; each ends with the first line that makes it long enough."""
    start = 0
    while start < len(content):
        stop = content.find("\n", start + PIECE - 1) + 1 or len(content)
        yield Held(content[start:stop])
        start = stop
