"""The repair of what a round removes, layer by layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics, Totals
from bonsai_core.engine.rounds import Round
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.statistics import site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.units import Site


class LayerRepairs:
    """Repairs of what a round removes, from statistics of the text as the layers before, repaired already, leave it.

    Args:
        alive_U: the units alive at the round's start, bool [U].
        after: of the model as the round leaves it.
        stored: where repairs are stored; None for nowhere.
    """

    def __init__(
        self,
        job: Job,
        round: Round,
        alive_U: NDArray[np.bool_],
        after: RoundStatistics,
        stored: TensorFiles | None,
    ) -> None:
        self._job = job
        self._alive_U = alive_U
        self._keep_U = after.alive_U
        self._after = None if round.last or not np.array_equal(round.prior_NT, after.windows_NT) else after
        self._stored = stored
        self._text = job.lockstep.stream(round.prior_NT) if job.methods.compensator_reads_text else None

    def repair_layer(self, number: int) -> None:
        """Repair a layer for good, slice it if that does not wait, and put the text through it."""
        job, subject = self._job, self._job.subject
        losing = self._losing(number)
        statistics = self._statistics(number) if losing else {}
        for site in losing:
            statistic = statistics.get(site.name)
            repair = site_repair(subject, job.methods.compensator, statistic, site, self._alive_U, self._keep_U)
            in_type = repair.to(subject.dtype_of(site))  # as it is read again
            subject.repair(site, self._keep_U, in_type)
            if self._stored is not None:
                self._stored.save_repair(site.name, in_type)
        if job.slices_between_rounds:
            subject.slice_layer(number, self._keep_U)
        if self._text is None:
            return
        if not losing:
            job.lockstep.skip(number, self._text)  # it did not have to go through it twice
        if self._after is not None:
            self._after.look_ahead(number, self._text)
        else:
            lanes = LayerLanes.of(subject, number, self._keep_U[None], None)
            job.lockstep.advance(number, self._text, lanes)

    def _statistics(self, number: int) -> Totals:
        """What the compensator reads of the text in front of a layer that has not lost anything yet."""
        if self._text is None:
            return {}
        collected = LayerTotals(self._job.subject, number, self._job.methods.compensator, self._alive_U)
        lanes = LayerLanes.of(self._job.subject, number, self._alive_U[None], None)
        with collected.reading():
            self._job.lockstep.advance(number, self._text, lanes, collected.add, only_look=True)
        return collected.result()

    def _losing(self, number: int) -> list[Site]:
        """Sites of a layer that lose units which were alive at the round's start, while the layer stays."""
        subject, lost_U = self._job.subject, self._alive_U & ~self._keep_U
        if not subject.table.layer_stays(number, self._keep_U):
            return []
        sites = (site for site in subject.sites_present() if site.layer == number and site.has_output)
        return [site for site in sites if lost_U[site.units].any()]
