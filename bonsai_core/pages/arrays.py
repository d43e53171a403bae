"""What the arrays in a run directory show: predictions beside measurements, and importances beside the prior.

They may be missing, as in runs of earlier versions, or a stranger's; then there is less to show.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bonsai_core.rundir import RunDirectory

MOST_BYTES_PER_UNIT = 64
MOST_OTHER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Predictions:
    """Utilities of a round's sub-models, float64 [M]: predicted by fits that had not seen them, and measured."""

    predicted_M: NDArray[np.float64]
    measured_M: NDArray[np.float64]


@dataclass(frozen=True)
class SiteRanks:
    """Where a site's units rank among all of their kind that were measured: 0 leaves first, 1 stays longest.

    Attributes:
        layer: from 0.
        num_units: that were measured one by one.
        prior, importance: mean ranks in 0..1 by the prior, and by the regression.
    """

    layer: int
    kind: str
    num_units: int
    prior: float
    importance: float


def predictions(directory: RunDirectory, number: int) -> Predictions | None:
    """Of a round, from 1; None where there are none."""
    found = _arrays(directory.array_path(number, "selection"), 0)
    pair = [found.get(name) for name in ("predicted_M", "utility_M")]
    if any(a is None or a.ndim != 1 or a.dtype != np.float64 for a in pair):
        return None
    predicted_M, measured_M = (a for a in pair if a is not None)
    if len(predicted_M) != len(measured_M) or not len(measured_M) or not np.isfinite([predicted_M, measured_M]).all():
        return None
    return Predictions(predicted_M, measured_M)


def site_ranks(directory: RunDirectory, number: int, layers: Sequence[Mapping[str, Any]]) -> list[SiteRanks]:
    """The sites of which units were measured in a round, from 1.

    Args:
        layers: of the report, which has the number of units of every site.
    """
    sites = [(layer, kind, units["dense"]) for layer, kinds in enumerate(layers) for kind, units in kinds.items()]
    num_units = sum(units for _, _, units in sites)
    prior_U = _arrays(directory.array_path(number, "prior"), num_units).get("prior_U")
    importance_U = _arrays(directory.array_path(number, "selection"), num_units).get("importance_U")
    if prior_U is None or importance_U is None or prior_U.shape != (num_units,) or importance_U.shape != (num_units,):
        return []
    kinds = list(dict.fromkeys(kind for _, kind, _ in sites))
    counts = [units for _, _, units in sites]
    site_U = np.repeat(np.arange(len(sites)), counts)
    kind_U = np.repeat([kinds.index(kind) for _, kind, _ in sites], counts)
    known_U = np.isfinite(prior_U) & np.isfinite(importance_U)
    known_S = np.bincount(site_U[known_U], minlength=len(sites))
    means = []
    for values_U in (prior_U, importance_U):
        rank_U = _ranks(values_U[known_U], kind_U[known_U])
        means.append(np.bincount(site_U[known_U], rank_U, minlength=len(sites)) / np.maximum(known_S, 1))
    return [
        SiteRanks(layer, kind, int(known_S[index]), float(means[0][index]), float(means[1][index]))
        for index, (layer, kind, _) in enumerate(sites)
        if known_S[index]
    ]


def _ranks(values_U: NDArray[Any], kind_U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks in 0..1 among the units of the same kind; equal values share the mean of theirs."""
    from scipy.stats import rankdata

    rank_U = np.empty(len(values_U))
    for kind in np.unique(kind_U):
        own = kind_U == kind
        rank_U[own] = (rankdata(values_U[own]) - 0.5) / own.sum()
    return rank_U


def _arrays(path: Path, num_units: int) -> Mapping[str, NDArray[Any]]:
    """The arrays in a file by name; none if it is missing, damaged or far too large."""
    try:
        if path.stat().st_size > MOST_BYTES_PER_UNIT * num_units + MOST_OTHER_BYTES:
            return {}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = ("prior_U", "importance_U", "predicted_M", "utility_M")
            return {name: arrays[name] for name in names if name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError):
        return {}
