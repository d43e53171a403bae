"""Repairs of one round's sub-models: computed where a layer's statistics arise, and shared by those alike in a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Repair
from bonsai_core.engine.job import PATTERNS_PER_SITE, Job
from bonsai_core.engine.round_statistics import RoundStatistics, Totals
from bonsai_core.engine.stored_repairs import RepairStore, StoredRepairs, loses, repair_name
from bonsai_core.engine.submodels import RepairSource
from bonsai_core.engine.workers import Workers
from bonsai_core.model.forward.statistics import site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.model.subject import RepairOf
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.units import Site


class Repairs:
    """Repairs of the model as a round finds it, for sub-models that lose some of its units.

    Args:
        statistics: of the model as the round finds it.
        workers: who measures the sub-models.
        scratch: for repairs that are not used where they are computed.

    Attributes:
        statistics: as above.
    """

    def __init__(self, job: Job, statistics: RoundStatistics, workers: Workers, scratch: TensorFiles) -> None:
        self._job = job
        self.statistics = statistics
        self._workers = workers
        self._scratch = scratch

    @classmethod
    @contextmanager
    def of_submodels(cls, job: Job, statistics: RoundStatistics, workers: Workers, ledger: Ledger) -> Iterator[Repairs]:
        """Those of a round's sub-models, whose files and statistics leave with it."""
        scratch = TensorFiles(ledger.directory.scratch_path, ledger.directory.writing)
        try:
            yield cls(job, statistics, workers, scratch)
        finally:
            statistics.forget()
            scratch.remove()

    def affordable(self, keep_MU: NDArray[np.bool_]) -> bool:
        """Whether sub-models can be repaired, bool [M, U].

        A site's repair depends on which of its units are kept, so sub-models that switch whole windows share theirs,
        and those that are drawn unit by unit do not. Biases are always affordable.
        """
        compensator, sites = self._job.methods.compensator, self._sites()
        if not compensator.repairs or not compensator.changes_weights:
            return compensator.repairs
        return sum(len(self._different(keep_MU, site)) for site in sites) <= PATTERNS_PER_SITE * len(sites)

    def of(self, keep_MU: NDArray[np.bool_]) -> RepairSource:
        """What repairs some sub-models, bool [M, U]; stored before, where that is needed."""
        store = self._workers.repair_store(self._scratch)
        if store is None:
            return self
        self._prepare(keep_MU, store)
        return StoredRepairs(self._job.subject, self.statistics.alive_U, store)

    def sweep(self) -> Callable[[int], RepairOf]:
        """Repairs of sites, asked for at every layer of a sweep; a site that loses nothing gets none."""
        statistics_of = self.statistics.sweep(self._job.methods.compensator, again=True)

        def of_layer(number: int) -> RepairOf:
            totals = statistics_of(number)
            return lambda site, keep_U: (
                self._of(site, keep_U, totals) if loses(site, self.statistics.alive_U, keep_U) else None
            )

        return of_layer

    def _prepare(self, keep_MU: NDArray[np.bool_], store: RepairStore) -> None:
        """Store the repairs of some sub-models; those stored already stay."""
        sites = self._sites()
        patterns = [(site, keep_U) for site in sites for keep_U in self._different(keep_MU, site)]
        if all(repair_name(site, keep_U) in store for site, keep_U in patterns):
            return
        statistics_of = self.statistics.sweep(self._job.methods.compensator, again=True)

        def prepare_layer(number: int) -> None:
            totals = statistics_of(number)
            for site, keep_U in patterns:
                name = repair_name(site, keep_U)
                if site.layer == number and name not in store:
                    store.save_repair(name, self._of(site, keep_U, totals))

        self._job.lockstep.sweep(prepare_layer)

    def _of(self, site: Site, keep_U: NDArray[np.bool_], totals: Totals) -> Repair:
        subject, compensator, alive_U = self._job.subject, self._job.methods.compensator, self.statistics.alive_U
        repair = site_repair(subject, compensator, totals.get(site.name), site, alive_U, keep_U)
        return repair.to(subject.dtype_of(site))

    def _sites(self) -> list[Site]:
        """Those that can be repaired."""
        return [site for site in self._job.subject.sites_present() if site.has_output]

    def _different(self, keep_MU: NDArray[np.bool_], site: Site) -> list[NDArray[np.bool_]]:
        """One keep vector for each way in which a site loses units while its layer stays."""
        rows_M = np.flatnonzero([self._job.subject.table.layer_stays(site.layer, keep_U) for keep_U in keep_MU])
        packed_M = np.packbits(keep_MU[rows_M, site.units], axis=1)
        firsts = rows_M[np.unique(packed_M, axis=0, return_index=True)[1]]
        alive_U = self.statistics.alive_U
        return [keep_MU[first] for first in firsts if loses(site, alive_U, keep_MU[first])]
