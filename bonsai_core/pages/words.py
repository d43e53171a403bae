"""Numbers as the pages write them."""

from __future__ import annotations

from bonsai_core.settings.quantities import BYTES, COUNT


def number(value: float | None, digits: int = 2) -> str:
    """A number that was measured."""
    return "not finite" if value is None else f"{value:,.{digits}f}"


def percent(fraction: float) -> str:
    """``39.5 %``."""
    return f"{fraction:.1%}".replace("%", " %")


def count(parameters: float) -> str:
    """``134.5 M``, in four digits."""
    return _spaced(COUNT.shown(parameters))


def megabytes(size: float) -> str:
    """``325.5 MB``, in four digits."""
    return _spaced(BYTES.shown(size))


def _spaced(text: str) -> str:
    digits = text.rstrip("GMTKB")
    return f"{digits} {text[len(digits) :]}".strip()
