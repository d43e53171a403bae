"""The repair of what rounds remove, layer by layer."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import LayerCompensator, Repair
from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics, Totals
from bonsai_core.engine.rounds import Round
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.left_layers import adds_output, missing_behind
from bonsai_core.model.forward.statistics import layer_repair, site_repair
from bonsai_core.model.forward.unrepaired import UnrepairedLayers
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.units import Site


class LayerRepairs:
    """Repairs of all that has been removed, by what the text does as the layers before, repaired already, leave it.

    Each layer is repaired from its dense weights, which the text goes through first, for all that it has lost since:
    repairs of repairs would fit the text more and more, and the model less. `Job.repairs_dense` has the exception.

    Args:
        from_U: the units of the model that is repaired, bool [U]: all of the dense one's.
        after: of the model as the round leaves it.
        stored: where repairs are stored; None for nowhere.
        before: the layers of that model.
    """

    def __init__(
        self,
        job: Job,
        round: Round,
        from_U: NDArray[np.bool_],
        after: RoundStatistics,
        stored: TensorFiles | None,
        before: UnrepairedLayers,
    ) -> None:
        self._job = job
        self._from_U = from_U
        self._before = before
        self._keep_U = after.alive_U
        self._after = None if round.last or not np.array_equal(round.prior_NT, after.windows_NT) else after
        self._stored = stored
        self._text = job.lockstep.stream(round.prior_NT) if job.methods.compensator_reads_text else None

    def repair_layer(self, number: int) -> None:
        """Repair a layer for good, slice it if that does not wait, and put the text through it."""
        job, subject = self._job, self._job.subject
        losing = self._losing(number)
        statistics = self._statistics(number, losing) if losing else {}
        for site in losing:
            statistic, before = statistics.get(site.name), self._before.lockstep.subject
            repair = site_repair(before, job.methods.compensator, statistic, site, self._from_U, self._keep_U)
            self._apply(site, repair)
        self._make_up_for_layers_behind(number, losing)
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

    def _apply(self, site: Site, repair: Repair) -> None:
        subject = self._job.subject
        in_type = repair.to(subject.dtype_of(site))  # as it is read again
        subject.repair(site, self._keep_U, in_type, of_dense=self._job.repairs_dense)
        if self._stored is not None:
            self._stored.save_repair(site.name, in_type)

    def _make_up_for_layers_behind(self, number: int, repaired: list[Site]) -> None:
        """Have the last output projection of a layer make up for the layers between it and the next one that stays."""
        job, compensator = self._job, self._job.methods.compensator
        left = self._left_behind(number)
        *_, site = (site for site in job.table if site.layer == number and not site.leaves_with_layer)
        if not (left and isinstance(compensator, LayerCompensator) and job.repairs_dense):  # so not in mixtures
            return
        if self._text is None or not self._keep_U[site.units].any():
            return
        if not adds_output(job.lockstep, site, self._keep_U, self._text):
            return
        if site not in repaired:  # it may have made up for fewer layers in an earlier round
            self._before.reach(number)
            self._apply(site, Repair(self._before.lockstep.subject.unit_weight(site, self._from_U)))
        found = missing_behind(job.lockstep, self._before, compensator, site, self._keep_U, left, self._text)
        self._apply(site, layer_repair(job.subject, compensator, site, self._keep_U, *found))

    def _left_behind(self, number: int) -> list[int]:
        """The layers that have left between one that stays and the next one that does."""
        table, keep_U = self._job.table, self._keep_U
        behind = sorted(layer for layer in table.layer_sites if layer >= number)
        if not behind or not table.layer_stays(number, keep_U):
            return []
        return list(takewhile(lambda layer: not table.layer_stays(layer, keep_U), behind[1:]))

    def _statistics(self, number: int, losing: list[Site]) -> Totals:
        """What the compensator reads of the text that is in front of a layer, in the layer before it lost anything."""
        self._before.reach(number)
        if self._text is None:
            return {}
        before = self._before.lockstep
        collected = LayerTotals(before.subject, number, self._job.methods.compensator, self._from_U, losing)
        lanes = LayerLanes.of(before.subject, number, self._from_U[None], None)
        with collected.reading():
            before.advance(number, self._text, lanes, collected.add, only_look=True)
        return collected.result()

    def _losing(self, number: int) -> list[Site]:
        """Sites of a layer that have lost units and have some left, while the layer stays."""
        subject, lost_U = self._job.subject, self._from_U & ~self._keep_U
        if not subject.table.layer_stays(number, self._keep_U):
            return []
        sites = (site for site in subject.sites_present() if site.layer == number and site.has_output)
        return [site for site in sites if lost_U[site.units].any()]
