"""Repairs that are computed in one place and applied in others: read from where they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Repair
from bonsai_core.model.subject import RepairOf, Subject
from bonsai_core.units import Site


class RepairStore(Protocol):
    """Repairs by name."""

    def __contains__(self, name: str) -> bool: ...

    def save_repair(self, name: str, repair: Repair) -> None:
        """Write a repair."""

    def load_repair(self, name: str, device: torch.device) -> Repair:
        """A repair, on a device."""


@dataclass(frozen=True)
class StoredRepairs:
    """The repairs of sub-models, computed before.

    Args:
        subject: the model as a round finds it.
        alive_U: its units, bool [U].
    """

    subject: Subject
    alive_U: NDArray[np.bool_]
    store: RepairStore

    def sweep(self) -> Callable[[int], RepairOf]:
        """Repairs of sites, asked for at every layer of a sweep; a site that loses nothing gets none."""
        return lambda number: self._load

    def _load(self, site: Site, keep_U: NDArray[np.bool_]) -> Repair | None:
        if not loses(site, self.alive_U, keep_U):
            return None
        return self.store.load_repair(repair_name(site, keep_U), self.subject.home)


def apply_repairs(subject: Subject, repairs: RepairStore, keep_U: NDArray[np.bool_], *, of_dense: bool) -> None:
    """Apply the repairs of a round to the model, for good; those of each site are stored under its name.

    Args:
        of_dense: see `Subject.repair`.
    """
    for site in subject.sites_present():
        if site.name in repairs:
            subject.repair(site, keep_U, repairs.load_repair(site.name, subject.home), of_dense=of_dense)


def loses(site: Site, alive_U: NDArray[np.bool_], keep_U: NDArray[np.bool_]) -> bool:
    """Whether a site that can be repaired loses units."""
    return site.has_output and bool((alive_U[site.units] & ~keep_U[site.units]).any())


def repair_name(site: Site, keep_U: NDArray[np.bool_]) -> str:
    """What the repair of a site is stored under, which depends on which of its units are kept."""
    return f"{site.name}-{hashlib.sha256(np.packbits(keep_U[site.units]).tobytes()).hexdigest()[:16]}"
