"""The repair of what a round removes, layer by layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import Totals
from bonsai_core.engine.rounds import Round
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.statistics import site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.units import Site


class LayerRepairs:
    """Repairs of what a round removes, from statistics of the text as the layers before, repaired already, leave it.

    Args:
        stored: where repairs are stored; None for nowhere.

    Attributes:
        text: of the round, on its way through the layers; None where the compensator reads none.
    """

    def __init__(
        self,
        job: Job,
        round: Round,
        alive_U: NDArray[np.bool_],
        keep_U: NDArray[np.bool_],
        stored: TensorFiles | None,
    ) -> None:
        self._job = job
        self._alive_U = alive_U
        self._keep_U = keep_U
        self._stored = stored
        reads_text = job.methods.compensator_reads_text
        self.text = job.lockstep.stream(round.prior_NT) if reads_text else None

    def apply(self, number: int) -> None:
        """Repair a layer's sites for good; the text must be in front of the layer."""
        subject, compensator = self._job.subject, self._job.methods.compensator
        losing = self._losing(number)
        totals: Totals = {}
        if self.text is not None and losing:
            collected = LayerTotals(subject, number, compensator, self._alive_U)
            lanes = LayerLanes.of(subject, number, self._alive_U[None], None)
            with collected.reading():
                self._job.lockstep.advance(number, self.text, lanes, collected.add, only_look=True)
            totals = collected.result()
        elif self.text is not None:
            self._job.lockstep.skip(number, self.text)
        for site in losing:
            repair = site_repair(subject, compensator, totals.get(site.name), site, self._alive_U, self._keep_U)
            in_type = repair.to(subject.dtype_of(site))  # as it is read again
            subject.repair(site, self._keep_U, in_type)
            if self._stored is not None:
                self._stored.save_repair(site.name, in_type)

    def _losing(self, number: int) -> list[Site]:
        """Sites of a layer that lose units which were alive at the round's start, while the layer stays."""
        subject, lost_U = self._job.subject, self._alive_U & ~self._keep_U
        if not subject.table.layer_stays(number, self._keep_U):
            return []
        sites = (site for site in subject.sites_present() if site.layer == number and site.has_output)
        return [site for site in sites if lost_U[site.units].any()]
