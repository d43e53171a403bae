"""What trackers receive, as plain values by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bonsai_core.contracts.tracker import Plain
from bonsai_core.events import CurvePoint, Event, RoundFinished, StepDone, SubmodelMeasured

NOT_IN_SUMMARY = {"config", "rounds", "layers", "losses", "curve"}
"""Parts of a report that trackers have as settings and curves, or that are too many numbers for a summary."""

_UNUSUAL = re.compile(r"[^\w.-]+", re.ASCII)  # some trackers refuse them, as those of the stage "evaluate (dense)"


@dataclass(frozen=True)
class Point:
    """Values at one step of a group of curves."""

    group: str
    values: Mapping[str, float]
    step: int


def point_of(event: Event) -> Point | None:
    """What an event adds to the curves; None for nothing. Values that are missing or not finite are left out."""
    match event:
        case SubmodelMeasured():
            return _point("submodel", {event.metric: event.value}, (event.round - 1) * event.total + event.index)
        case RoundFinished():
            names = ("sparsity", "units_removed", "kendall_tau", "perplexity", "held_out_kl", "guard_kl")
            return _point("round", {name: getattr(event, name) for name in names}, event.round)
        case StepDone():
            return _point("train", event.losses, event.step)
        case CurvePoint():
            return _point("curve", {"perplexity": event.perplexity}, event.step)
    return None


def plain_settings(values: Mapping[str, Any]) -> dict[str, Plain]:
    """Settings as trackers take them: nested ones as ``prior.damping``, lists as text, and none that is not set."""
    return {
        name: value if isinstance(value, str | int | float | bool) else ",".join(map(str, value))
        for name, value in _leaves(values)
        if value not in (None, [], ())
    }


def summary_of(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report, as ``latency.phases.decode.speedup.median``."""
    parts = {name: part for name, part in report.items() if name not in NOT_IN_SUMMARY}
    return {name: float(value) for name, value in _leaves(parts) if _is_number(value)}


def _point(group: str, values: Mapping[str, float | None], step: int) -> Point | None:
    known = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
    return Point(group, known, step) if known else None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for given, value in values.items():
        name = prefix + _UNUSUAL.sub("_", given).strip("_")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
