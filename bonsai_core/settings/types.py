"""The kinds of values that settings take, with bounds: a value beyond them could only fail, and late."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from bonsai_core.errors import shortened
from bonsai_core.units import SiteKind

MAX_COUNT = 1_000_000  # of windows, units or passes
Positive = Annotated[int, Field(gt=0, le=MAX_COUNT)]
NotNegative = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Length = Annotated[int, Field(ge=2, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SMALLEST_STEP = 1e-4
"""Of sparsity: less is hardly a unit of any model, and would take thousands of rounds."""


def _by_kind(value: Any) -> Any:
    """``attention=2,mlp=64`` as a mapping."""
    if isinstance(value, str) and "=" in value:
        limits = [part.partition("=") for part in value.split(",")]
        kinds = [kind.strip() for kind, _, _ in limits]
        kind, times = Counter(kinds).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{shortened(kind)} is there {times} times: keep one of them")
        return dict(zip(kinds, (number for _, _, number in limits), strict=True))
    return value


def names_split(value: Any) -> Any:
    """``0,1,-1`` as a list; a single number too."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


_DEVICE = re.compile(r"[0-9]{1,4}|cpu|mps|disk")
_SIZE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?[KMG]i?B", re.IGNORECASE)


def memory_limits(text: str) -> dict[int | str, str]:
    """``0=20GiB,cpu=60GiB`` as accelerate wants it; raises `ValueError` if it cannot be read."""
    limits: dict[int | str, str] = {}
    for part in text.split(","):
        device, _, size = (word.strip() for word in part.partition("="))
        if device in map(str, limits) or not _DEVICE.fullmatch(device) or not _SIZE.fullmatch(size):
            raise ValueError("write it like 0=20GiB,cpu=60GiB (a GPU's number, or cpu; each once)")
        limits[int(device) if device.isdecimal() else device] = size
    return limits


def _checked_limits(text: str) -> str:
    memory_limits(text)
    return text


MaxMemory = Annotated[str, AfterValidator(_checked_limits)]
Limit = TypeVar("Limit")
ByKind = Annotated[
    Annotated[Limit, Tag("*")] | Annotated[dict[SiteKind, Limit], Tag("**")],
    Discriminator(lambda value: "**" if isinstance(value, dict) else "*"),
    BeforeValidator(_by_kind),
]
"""One limit for all kinds of site, or one for each kind named."""
Hardware = Literal["auto", "cpu", "gpu"]


def _form_of_multiple(value: Any) -> str:
    named = isinstance(value, str) and value[:1].isalpha()
    return "**" if isinstance(value, dict) else "***" if named else "*"


RoundTo = Annotated[
    Annotated[Positive, Tag("*")] | Annotated[dict[SiteKind, Positive], Tag("**")] | Annotated[Hardware, Tag("***")],
    Discriminator(_form_of_multiple),
    BeforeValidator(_by_kind),
]
"""A multiple for all kinds of site, one for each kind named, or what a kind of hardware likes."""
