"""Limits per kind of site: what users give as one number or as one for each kind becomes one type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from bonsai_core.units import KINDS_OF_SITE, SiteKind

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Limit(Generic[T]):
    """One limit, for every kind of site.

    Attributes:
        by_kind: the limit of each kind, defaults included.
        given: the option's value as users type it: ``64``, or ``attention=2,mlp=64``.
    """

    by_kind: Mapping[SiteKind, T]
    given: str


def multiples(given: int | Mapping[SiteKind, int]) -> Limit[int]:
    """`round_to`: numbers of units are multiples of this. One number is for the kinds that follow `round_to`."""
    named, for_all = _named(given, 1)
    return Limit(
        {
            kind: named.get(kind, math.lcm(facts.multiple, for_all if facts.follows_round_to else 1))
            for kind, facts in KINDS_OF_SITE.items()
        },
        _typed(given),
    )


def minimums(given: int | Mapping[SiteKind, int]) -> Limit[int]:
    """`min_units`: units that every site keeps. One number is for all kinds but layers, of which 1 stays."""
    named, for_all = _named(given, 1)
    return Limit(
        {kind: named.get(kind, 1 if facts.leaves_with_layer else for_all) for kind, facts in KINDS_OF_SITE.items()},
        _typed(given),
    )


def fractions(given: float | Mapping[SiteKind, float]) -> Limit[float]:
    """`max_fraction`: share of its units that a site may lose; for layers, share of them."""
    named, for_all = _named(given, 1.0)
    return Limit({kind: named.get(kind, for_all) for kind in KINDS_OF_SITE}, _typed(given))


def _named(given: T | Mapping[SiteKind, T], otherwise: T) -> tuple[Mapping[SiteKind, T], T]:
    """The limits of the kinds named, and the one for the others."""
    return (given, otherwise) if isinstance(given, Mapping) else ({}, given)


def _typed(given: float | Mapping[SiteKind, float]) -> str:
    return ",".join(f"{kind}={limit}" for kind, limit in given.items()) if isinstance(given, Mapping) else str(given)
