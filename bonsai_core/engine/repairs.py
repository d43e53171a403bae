"""Repairs of one round: of sub-models before they are measured, and of what the selection removes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Repair
from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.rounds import Round
from bonsai_core.events import Stage
from bonsai_core.model.forward.statistics import site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.rundir.files import atomic_folder
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.units import Site

PATTERNS_PER_SITE = 4
"""At most this many different repairs per site are prepared, on average over the sites."""


class Repairs:
    """Repairs of the model as a round finds it: temporary ones for sub-models, permanent ones for what the round keeps.

    Args:
        job: the run's.
        round: the round.
        alive_U: units alive at its start, bool [U].
        scratch: for files that only this round needs.
        ledger: the run's.

    Attributes:
        statistics: of the model as the round finds it.
    """

    def __init__(
        self, job: Job, round: Round, alive_U: NDArray[np.bool_], scratch: TensorFiles, ledger: Ledger
    ) -> None:
        self.statistics = RoundStatistics(job, round.prior_NT, alive_U, scratch.inside("moments"))
        self._subject = job.subject
        self._compensator = job.methods.compensator
        self._step = round.repair(job)
        self._alive_U = alive_U
        self._prepared = scratch.inside("repairs")
        self._ledger = ledger

    @classmethod
    @contextmanager
    def of_round(cls, job: Job, round: Round, alive_U: NDArray[np.bool_], ledger: Ledger) -> Iterator[Repairs]:
        """Those of a round, whose files leave with it."""
        scratch = TensorFiles(ledger.directory.scratch_path, ledger.directory.writing)
        try:
            yield cls(job, round, alive_U, scratch, ledger)
        finally:
            scratch.remove()

    def prepare(self, keep_MU: NDArray[np.bool_]) -> bool:
        """Whether sub-models can be repaired; if so, everything that they need is computed now.

        A site's repair depends on which of its units are kept, so sub-models that switch whole windows share theirs,
        and those that are drawn unit by unit do not. Biases are always affordable.
        """
        if not self._compensator.changes_weights:
            return True
        sites = self._sites()
        every = ((site, keep_U) for site in sites for keep_U in self._different(keep_MU, site))
        patterns = list(islice(every, PATTERNS_PER_SITE * len(sites) + 1))
        if len(patterns) > PATTERNS_PER_SITE * len(sites):
            return False
        for site, keep_U in patterns:
            self.of(site, keep_U)
        return True

    def apply_permanently(self, keep_U: NDArray[np.bool_]) -> None:
        """Apply the round's repair permanently; one already in the run directory is reused."""
        directory, number = self._ledger.directory, self._step.round
        files = TensorFiles(directory.tensor_path(number, "repair"), directory.writing)

        computed: Payload = {}

        def write() -> Payload:
            nonlocal computed
            self._ledger.begin(Stage.REPAIR, f"repair by {self._compensator.name}", number)
            self._write(files, keep_U)
            computed = {"sha256": files.sha256()}
            return computed

        def is_intact(payload: Payload) -> bool:
            return files.folder.exists() and files.sha256() == payload["sha256"]

        recorded = self._ledger.once(self._step, write, holds=is_intact)
        if computed and computed["sha256"] != recorded["sha256"]:
            self._ledger.warn(f"The repair of round {number} was computed again and rounds differently.")
        for site in self._subject.sites_present():
            if site.name in files:
                self._subject.repair(site, keep_U, files.load_repair(site.name, self._subject.home))

    @contextmanager
    def applied(self, keep_U: NDArray[np.bool_]) -> Iterator[None]:
        """The sub-model under a keep vector, repaired."""
        losing = self.losing(keep_U) if self._compensator.repairs else []
        with self._subject.repaired(keep_U, ((site, self.of(site, keep_U)) for site in losing)):
            yield

    def losing(self, keep_U: NDArray[np.bool_]) -> list[Site]:
        """Sites that lose units which were alive at the round's start, and do not leave with their layer."""
        lost_U, table = self._alive_U & ~keep_U, self._subject.table
        return [site for site in self._sites() if lost_U[site.units].any() and table.layer_stays(site.layer, keep_U)]

    def of(self, site: Site, keep_U: NDArray[np.bool_]) -> Repair:
        """What a site gets under a keep vector; new weights are computed once, in the model's type."""
        name = _name(site, keep_U)
        if name not in self._prepared:
            totals, num_tokens = self._totals, self.statistics.num_tokens
            repair = site_repair(self._subject, self._compensator, totals, num_tokens, site, self._alive_U, keep_U)
            if not self._compensator.changes_weights:
                return repair
            self._prepared.save_repair(name, repair, self._subject.dtype_of(site))
        return self._prepared.load_repair(name, self._subject.home)

    def keep_only(self, keep_U: NDArray[np.bool_]) -> None:
        """Delete all prepared repairs except those of one keep vector."""
        self._prepared.remove_all_but({_name(site, keep_U) for site in self._sites()})

    def _write(self, files: TensorFiles, keep_U: NDArray[np.bool_]) -> None:
        """What every site gets for its losses, written as a whole or not at all."""
        writing = self._ledger.directory.writing
        with writing(str(files.folder)), atomic_folder(files.folder) as folder:
            partial = TensorFiles(folder, writing)
            for site in self.losing(keep_U):
                partial.save_repair(site.name, self.of(site, keep_U), self._subject.dtype_of(site))

    def _sites(self) -> list[Site]:
        """Those that can be repaired."""
        return [site for site in self._subject.sites_present() if site.has_output]

    def _different(self, keep_MU: NDArray[np.bool_], site: Site) -> Iterator[NDArray[np.bool_]]:
        """One keep vector for each way in which a site loses units while its layer stays."""
        rows_M = np.flatnonzero([self._subject.table.layer_stays(site.layer, keep_U) for keep_U in keep_MU])
        packed_M = np.packbits(keep_MU[rows_M, site.units], axis=1)
        for first in np.unique(packed_M, axis=0, return_index=True)[1]:
            keep_U = keep_MU[rows_M[first]]
            if (keep_U[site.units] != self._alive_U[site.units]).any():
                yield keep_U

    @cached_property
    def _totals(self) -> Mapping[str, Tensor]:
        return self.statistics.totals(self._compensator)


def _name(site: Site, keep_U: NDArray[np.bool_]) -> str:
    return f"{site.name}-{hashlib.sha256(np.packbits(keep_U[site.units]).tobytes()).hexdigest()[:16]}"
