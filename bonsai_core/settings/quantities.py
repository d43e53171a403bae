"""Quantities as users give them: ``1B`` parameters, ``2GB``, ``30ms``, or ``0.5x`` of what the dense model has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([a-z]{0,3})", re.IGNORECASE)
DIGITS = 4
_DIGITS_UP = 10**DIGITS


@dataclass(frozen=True)
class Quantity:
    """Something that is counted in integers.

    Attributes:
        examples: how users write it.
        units: how many each unit is, by its name in lower case.
        shown_in: of these, those that people read it in, the largest first.
        exact_in: that in which no digit that matters is lost, as people read it, and how many it is.
    """

    examples: str
    units: Mapping[str, int]
    shown_in: tuple[str, ...]
    exact_in: tuple[str, int]

    def parse(self, text: str) -> Amount:
        """Raises `ValueError` if it cannot be read, or is nothing, or is not less than what the dense model has."""
        found = _NUMBER.fullmatch(text.strip())
        number, unit = (float(found[1]), found[2].lower()) if found else (0.0, "")
        if found and unit == "x":
            if not 0 < number < 1:
                raise ValueError("a share of the dense model is more than 0x and less than 1x")
            return Amount(number, relative=True)
        if unit not in self.units or number * self.units[unit] < 1:
            raise ValueError(f"write it like {self.examples}")
        return Amount(number * self.units[unit], relative=False)

    def shown(self, count: float) -> str:
        """For people, in four digits."""
        unit = next((unit for unit in self.shown_in if count >= self.units[unit.lower()]), self.shown_in[-1])
        return f"{count / self.units[unit.lower()]:.{DIGITS}g}{unit}"

    def exact(self, count: int) -> str:
        """With all digits, rounded up."""
        words, each = self.exact_in
        return f"{-(-count // each):,}{words}"


@dataclass(frozen=True)
class Amount:
    """A parsed quantity: `value` of it, or (`relative`) of what the dense model has."""

    value: float
    relative: bool

    def leaving(self, dense: int) -> float:
        """The fraction that has to leave where the dense model has this many; not positive where none has to."""
        return 1 - self.value if self.relative else (dense - math.floor(self.value)) / dense


def share_rounded_up(part: int, whole: int) -> str:
    """As ``0.6231x``, never less than it is."""
    return f"{-(-part * _DIGITS_UP // whole) / _DIGITS_UP:g}x"


_DECIMAL = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_BYTES = {f"{letter}b": 10 ** (3 * power) for power, letter in enumerate("kmgt", 1)}
_BINARY = {f"{letter}ib": 2 ** (10 * power) for power, letter in enumerate("kmgt", 1)}
COUNT = Quantity("1.2B, 350M or 0.5x", {"": 1, **_DECIMAL}, ("B", "M", "K", ""), (" parameters", 1))
BYTES = Quantity("2GB, 600MB, 1.5GiB or 0.5x", {"b": 1, **_BYTES, **_BINARY}, ("GB", "MB", "KB", "B"), (" bytes", 1))
TIME = Quantity(
    "30ms, 1.5s or 0.6x", {"ps": 1, "us": 10**6, "ms": 10**9, "s": 10**12}, ("s", "ms", "us"), ("us", 10**6)
)


def _as_text(value: Any) -> Any:
    """Numbers without a unit as YAML reads them."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.15g}" if is_number and abs(value) < 10**15 else value


def _checked(quantity: Quantity) -> AfterValidator:
    def check(text: str) -> str:
        quantity.parse(text)
        return text.strip()

    return AfterValidator(check)


Parameters = Annotated[str, _checked(COUNT), BeforeValidator(_as_text)]
Bytes = Annotated[str, _checked(BYTES), BeforeValidator(_as_text)]
Time = Annotated[str, _checked(TIME), BeforeValidator(_as_text)]


@dataclass(frozen=True)
class Target:
    """What a run may have to get down to, instead of a sparsity.

    Attributes:
        words: what is counted, as people call it.
        quantity: what it is counted in.
    """

    words: str
    quantity: Quantity

    def shown(self, count: float) -> str:
        """An amount of it for people."""
        return f"{self.quantity.shown(count)} {self.words}".strip()


TARGETS: Mapping[str, Target] = {
    "target_params": Target("parameters", COUNT),
    "target_bytes": Target("of weights", BYTES),
    "target_kv": Target("of KV cache per token", BYTES),
    "target_active_params": Target("parameters in use per token", COUNT),
    "target_latency": Target("per pass", TIME),
}
"""By setting."""
