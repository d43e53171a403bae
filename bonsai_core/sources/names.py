"""How a data set of the hub is named, with its configuration, split and column."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bonsai_core.errors import BonsaiError

SYNTAX = "NAME[config]:split#column"
_PATTERN = re.compile(r"(?P<name>[^\[\]:#]+)(\[(?P<config>[^\[\]]+)\])?(:(?P<split>[\w.-]+))?(#(?P<column>.+))?")


@dataclass(frozen=True)
class DatasetName:
    """What `NAME[config]:split#column` says, None where it says nothing; `name` is the hub id."""

    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None

    @classmethod
    def of(cls, asked: str) -> DatasetName:
        """Parse a name as a user writes it; `str` gives it back.

        Raises:
            BonsaiError: it is not written like that.
        """
        match = _PATTERN.fullmatch(asked)
        if match is None:
            raise BonsaiError(
                f"Cannot read the data set's name {asked!r}. It is written {SYNTAX}, where each part but NAME can be "
                f"left out, as in owner/name[en]:train#content."
            )
        return cls(**match.groupdict())

    def __str__(self) -> str:
        parts = (("[", self.config, "]"), (":", self.split, ""), ("#", self.column, ""))
        return self.name + "".join(f"{left}{part}{right}" for left, part, right in parts if part is not None)
