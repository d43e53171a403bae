"""Limits per kind of site: what users give as one number or as one for each kind becomes one type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from bonsai_core.units import KINDS_OF_SITE, KindOfSite, SiteKind

T = TypeVar("T", int, float)
LIKED: Mapping[str, int] = {"cpu": 16, "gpu": 64}
"""Multiples that hardware likes.

On a CPU with AVX-512, MLPs in float32 took 13 to 30 % longer per channel at widths that are no multiples of 8, and
from there on nothing was left to gain (benchmarks/widths.py); 16 is one vector. On an H100 a tenth less at widths that
are no multiples of 64 was slower than the dense model.
"""
STEPS = 16
"""A width can be cut in at least this many steps, however narrow it is."""


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
    return _limit(given, 1, lambda kind, number: math.lcm(kind.multiple, number if kind.follows_round_to else 1))


def suited_multiples(hardware: str, widths: Mapping[SiteKind, int]) -> Limit[int]:
    """`round_to` where it names hardware: for each kind that follows `round_to`, a power of two.

    Args:
        hardware: ``cpu`` or ``gpu``.
        widths: units that a site usually has, by kind.
    """

    def suited(kind: SiteKind) -> int:
        steps = widths.get(kind, 0) // STEPS
        return min(LIKED[hardware], 1 << max(0, steps.bit_length() - 1))

    by_kind = {
        kind: math.lcm(facts.multiple, suited(kind) if facts.follows_round_to else 1)
        for kind, facts in KINDS_OF_SITE.items()
    }
    rounded = ", ".join(f"{kind}={by_kind[kind]}" for kind in widths if by_kind[kind] > 1)
    return Limit(by_kind, f"{hardware} ({rounded})" if rounded else hardware)


def minimums(given: int | Mapping[SiteKind, int]) -> Limit[int]:
    """`min_units`: units that every site keeps. One number is for all kinds but layers, of which 1 stays."""
    return _limit(given, 1, lambda kind, number: 1 if kind.leaves_with_layer else number)


def fractions(given: float | Mapping[SiteKind, float]) -> Limit[float]:
    """`max_fraction`: share of its units that a site may lose; for layers, share of them."""
    return _limit(given, 1.0, lambda _, number: number)


def _limit(given: T | Mapping[SiteKind, T], default: T, of_kind: Callable[[KindOfSite, T], T]) -> Limit[T]:
    """Kinds that are not named get what `of_kind` makes of the one number, or of the default."""
    if isinstance(given, Mapping):
        named, number, typed = given, default, ",".join(f"{kind}={limit}" for kind, limit in given.items())
    else:
        named, number, typed = {}, given, str(given)
    return Limit({kind: named.get(kind, of_kind(facts, number)) for kind, facts in KINDS_OF_SITE.items()}, typed)
