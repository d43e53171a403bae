"""Tied weights: one tensor under two names, of which files may have either."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, TypeVar

from bonsai_core.upstream import tied_pairs

Item = TypeVar("Item")


def under_both_names(model: Any, stored: MutableMapping[str, Item]) -> None:
    """Have what is stored of a tied weight under one of its names found under the other too, in place."""
    for name, other in tied_pairs(model):
        for one, same in ((name, other), (other, name)):
            if one not in stored and same in stored:
                stored[one] = stored[same]
