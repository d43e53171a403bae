"""The quantities in a sweep's rows: their labels, and how their numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_core.display.printable import visible

MEASURED = "perplexity"
"""The quantity that is in a report's rounds when they were evaluated, and None where it is not finite."""


@dataclass(frozen=True)
class Quantity:
    """One number per run.

    Attributes:
        label: name with unit, for axes and columns.
        style: format of the number, after multiplication by `scale`.
        dense: name of the same quantity of the dense model, drawn as a reference.
        absent: what is shown where there is no number.
    """

    label: str
    style: str = "{:,.2f}"
    scale: float = 1.0
    dense: str | None = None
    absent: str = "-"

    def show(self, value: float | None) -> str:
        """The number as text."""
        return self.absent if value is None else self.style.format(value * self.scale)


QUANTITIES: Mapping[str, Quantity] = {
    "sparsity": Quantity("sparsity of the decoder layers, %", "{:.1f}", scale=100),
    "perplexity": Quantity("perplexity", dense="dense_perplexity", absent="not finite"),
    "dense_perplexity": Quantity("perplexity of the dense model", absent="not finite"),
    "adapted_perplexity": Quantity("perplexity after adaptation", dense="dense_perplexity"),
    "weight_mb": Quantity("weights, MB", "{:,.1f}"),
    "parameters": Quantity("parameters, millions", "{:,.1f}", scale=1e-6),
    "speedup": Quantity("speed-up over the dense model, times"),
    "prune_s": Quantity("time to prune, s", "{:,.1f}"),
    "kendall_tau": Quantity("out-of-fold Kendall tau"),
    "round": Quantity("round", "{:.0f}"),
}


def show_value(value: Any) -> str:
    """A setting's value in words: ``0.2``, ``ridge``, ``ridge folds 3``."""
    if isinstance(value, dict):
        rest = (f"{visible(key)} {show_value(item)}" for key, item in value.items() if key != "name")
        return " ".join([show_value(value["name"]) if "name" in value else "", *rest]).strip()
    if isinstance(value, list):
        return " ".join(show_value(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else visible(value)


def show_setting(name: str, value: Any) -> str:
    """A setting and its value in words: ``round fraction 0.05``."""
    return f"{visible(name.replace('_', ' '))} {show_value(value)}"


def describe(arm: str, point: Mapping[str, Any], seed: int | None = None) -> str:
    """One run in words: ``no regression, sparsity 0.2, seed 1``."""
    words = [visible(arm), *(show_setting(name, value) for name, value in point.items())]
    return ", ".join(words if seed is None else [*words, f"seed {seed}"])
