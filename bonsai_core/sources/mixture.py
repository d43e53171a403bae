"""Several texts with shares of the windows that are drawn."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.stored import exists, user_path
from bonsai_core.sources.text import Text

MIXED = "mixed"
EXAMPLE = "c4:0.7,chat.jsonl:0.3"
_SHARE = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:,|$)")
_CONFIG_AND_COLUMN = re.compile(r"\[[^\[\]]*\]|#.*$")


class Named(NamedTuple):
    """A text by name, and its share, relative to those of the other texts."""

    name: str
    share: float


def mixed(asked: str, named: Sequence[Named], texts: Sequence[Text]) -> Text:
    """The texts by these names as one; a single one as it is."""
    if len(texts) == 1:
        return texts[0]
    total = sum(share for _, share in named)
    pieces = tuple(piece for text in texts for piece in text.pieces)
    return Text(asked, MIXED, pieces, parts=tuple(texts), fractions=tuple(share / total for _, share in named))


def have_the_same(one: Text, other: Text) -> bool:
    """Whether a part of one has the same characters as a part of the other."""
    return any(text.equals(twin) for text, twin in itertools.product(one.texts, other.texts))


def holds_part_of(one: Text, other: Text) -> bool:
    """Whether a part of `other`, all of it, is somewhere in a part of `one`."""
    return any(text.contains(part) for text, part in itertools.product(one.texts, other.texts))


def named_texts(asked: str) -> list[Named]:
    """The texts that a setting names: one, or several as ``c4:0.7,chat.jsonl:0.3``.

    A number behind the last colon is a share; no split of a data set is called like that. Shares are relative: 7 and 3
    are the same as 0.7 and 0.3.

    Raises:
        BonsaiError: only some of several texts have a share, a single one has, a share is not positive, or a text is
            there twice.
    """
    if exists(user_path(asked)):
        return [Named(asked, 1.0)]
    named, start = [], 0
    for match in _SHARE.finditer(asked):
        named.append(Named(asked[start : match.start()].strip(), float(match[1])))
        start = match.end()
    unshared = asked[start:].strip()
    if not named and "," not in _CONFIG_AND_COLUMN.sub("", asked):
        return [Named(asked, 1.0)]
    if unshared or any("," in _CONFIG_AND_COLUMN.sub("", n) and not exists(user_path(n)) for n, _ in named):
        raise BonsaiError(f"Cannot read {asked!r}: of several texts, each needs a share, as {EXAMPLE}.")
    if len(named) == 1:
        raise BonsaiError(
            f"{asked!r} is a single text with a share. Leave out the share, or say what the rest is, as {EXAMPLE}."
        )
    for name, share in named:
        if not name:
            raise BonsaiError(f"Cannot read {asked!r}: there is a share without a text. Write it as {EXAMPLE}.")
        if not 0 < share < math.inf:
            raise BonsaiError(f"The share of {name!r} in {asked!r} is {share:g}; shares are positive, as {EXAMPLE}.")
    twice = next((name for name, _ in named if [other for other, _ in named].count(name) > 1), None)
    if twice is not None:
        raise BonsaiError(f"{twice!r} is in {asked!r} twice: give it one share.")
    return named


def apportioned(number: int, fractions: Sequence[float]) -> list[int]:
    """A number of windows divided by fractions that add up to 1, by largest remainder; the first wins a tie."""
    quotas = np.asarray(fractions, dtype=np.float64) * number
    counts = np.floor(quotas).astype(np.int64)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: number - counts.sum()]] += 1
    return [int(count) for count in counts]


def interleaved(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All windows of the parts, each int64 [N, L], in their order and spread evenly over the result.

    So any consecutive windows have about as much of each part as all of them.
    """
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in parts])
    return np.concatenate(parts)[np.argsort(places, kind="stable")]
