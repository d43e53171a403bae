"""Repairs of one round's sub-models: computed where a layer's statistics arise, and shared by those alike in a site."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Repair
from bonsai_core.engine.job import PATTERNS_PER_SITE, Job
from bonsai_core.engine.methods import runs_in_lockstep
from bonsai_core.engine.round_statistics import RoundStatistics, Totals
from bonsai_core.model.forward.statistics import site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.model.subject import RepairOf
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.units import Site


class Repairs:
    """Repairs of the model as a round finds it, for sub-models that lose some of its units.

    Args:
        statistics: of the model as the round finds it.
        prepared: where repairs are stored for metrics that run the model themselves, one sub-model after the other.

    Attributes:
        statistics: as above.
    """

    def __init__(self, job: Job, statistics: RoundStatistics, prepared: TensorFiles) -> None:
        self._job = job
        self.statistics = statistics
        self._prepared = prepared

    @classmethod
    @contextmanager
    def of_submodels(cls, job: Job, statistics: RoundStatistics, ledger: Ledger) -> Iterator[Repairs]:
        """Those of a round's sub-models, whose files and statistics leave with it."""
        scratch = TensorFiles(ledger.directory.scratch_path, ledger.directory.writing)
        try:
            yield cls(job, statistics, scratch)
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

    def sweep(self) -> Callable[[int], RepairOf]:
        """Repairs of sites, asked for at every layer of a sweep; a site that loses nothing gets none."""
        statistics_of = self.statistics.sweep(self._job.methods.compensator, again=True)

        def of_layer(number: int) -> RepairOf:
            totals = statistics_of(number)
            return lambda site, keep_U: self._of(site, keep_U, totals) if self._loses(site, keep_U) else None

        return of_layer

    def prepare(self, keep_MU: NDArray[np.bool_]) -> None:
        """Store the repairs of some sub-models for `applied`, if the metric needs that; those stored already stay."""
        if runs_in_lockstep(self._job.methods.metric):
            return
        sites = self._sites()
        patterns = [(site, keep_U) for site in sites for keep_U in self._different(keep_MU, site)]
        if all(_name(site, keep_U) in self._prepared for site, keep_U in patterns):
            return
        statistics_of = self.statistics.sweep(self._job.methods.compensator, again=True)

        def prepare_layer(number: int) -> None:
            totals = statistics_of(number)
            for site, keep_U in patterns:
                if site.layer == number and _name(site, keep_U) not in self._prepared:
                    self._prepared.save_repair(_name(site, keep_U), self._of(site, keep_U, totals))

        self._job.lockstep.sweep(prepare_layer)

    def applied(self, keep_U: NDArray[np.bool_]) -> AbstractContextManager[None]:
        """The whole model as one of the sub-models that were prepared."""

        def loaded(site: Site, keep_U: NDArray[np.bool_]) -> Repair | None:
            name, home = _name(site, keep_U), self._job.subject.home
            return self._prepared.load_repair(name, home) if self._loses(site, keep_U) else None

        return self._job.subject.masked(keep_U, loaded)

    def _of(self, site: Site, keep_U: NDArray[np.bool_], totals: Totals) -> Repair:
        subject, compensator, alive_U = self._job.subject, self._job.methods.compensator, self.statistics.alive_U
        repair = site_repair(subject, compensator, totals.get(site.name), site, alive_U, keep_U)
        return repair.to(subject.dtype_of(site))

    def _sites(self) -> list[Site]:
        """Those that can be repaired."""
        return [site for site in self._job.subject.sites_present() if site.has_output]

    def _loses(self, site: Site, keep_U: NDArray[np.bool_]) -> bool:
        """Whether a site that can be repaired loses units."""
        lost = self.statistics.alive_U[site.units] & ~keep_U[site.units]
        return site.has_output and bool(lost.any())

    def _different(self, keep_MU: NDArray[np.bool_], site: Site) -> list[NDArray[np.bool_]]:
        """One keep vector for each way in which a site loses units while its layer stays."""
        rows_M = np.flatnonzero([self._job.subject.table.layer_stays(site.layer, keep_U) for keep_U in keep_MU])
        packed_M = np.packbits(keep_MU[rows_M, site.units], axis=1)
        firsts = rows_M[np.unique(packed_M, axis=0, return_index=True)[1]]
        return [keep_MU[first] for first in firsts if self._loses(site, keep_MU[first])]


def _name(site: Site, keep_U: NDArray[np.bool_]) -> str:
    return f"{site.name}-{hashlib.sha256(np.packbits(keep_U[site.units]).tobytes()).hexdigest()[:16]}"
