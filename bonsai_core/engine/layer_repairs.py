"""The repair of what a round removes, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Repair, ResidualCompensator
from bonsai_core.engine.job import Job
from bonsai_core.engine.round_statistics import RoundStatistics, Totals
from bonsai_core.engine.rounds import Round
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.residual import DenseStream, LayerGaps
from bonsai_core.model.forward.statistics import site_correction, site_repair
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.units import Site


class LayerRepairs:
    """Repairs of what a round removes, from statistics of the text as the layers before, repaired already, leave it.

    Args:
        alive_U: the units alive at the round's start, bool [U].
        after: of the model as the round leaves it.
        stored: where repairs are stored; None for nowhere.
        dense: the same text in the dense model; None where repairs are not compared with it.
    """

    def __init__(
        self,
        job: Job,
        round: Round,
        alive_U: NDArray[np.bool_],
        after: RoundStatistics,
        stored: TensorFiles | None,
        dense: DenseStream | None,
    ) -> None:
        self._job = job
        self._alive_U = alive_U
        self._keep_U = after.alive_U
        self._after = None if round.last or not np.array_equal(round.prior_NT, after.windows_NT) else after
        self._stored = stored
        self._dense = dense
        self._text = job.lockstep.stream(round.prior_NT) if job.methods.compensator_reads_text else None

    @classmethod
    @contextmanager
    def of(
        cls,
        job: Job,
        round: Round,
        alive_U: NDArray[np.bool_],
        after: RoundStatistics,
        stored: TensorFiles | None,
    ) -> Iterator[LayerRepairs]:
        """Those of a round, beside the dense model if they are compared with it."""
        with ExitStack() as stack:
            dense = None
            if job.corrects:
                text = job.lockstep.stream(round.prior_NT)
                dense = stack.enter_context(closing(DenseStream(job.dense, text, beside=job.subject.in_place)))
            yield cls(job, round, alive_U, after, stored, dense)

    def repair_layer(self, number: int) -> None:
        """Repair a layer for good, slice it if that does not wait, and put the text through it."""
        job, subject = self._job, self._job.subject
        gaps = self._gaps(number)
        sites = [s for s in self._standing(number) if gaps is not None or self._loses(s)]
        statistics = self._statistics(number, gaps) if sites else {}
        for site in sites:
            statistic = statistics.get(site.name)
            repair = site_repair(subject, job.methods.compensator, statistic, site, self._alive_U, self._keep_U)
            if gaps is not None:
                repair = self._corrected(site, repair, statistics, gaps)
            self._apply(site, repair)
        if job.slices_between_rounds:
            subject.slice_layer(number, self._keep_U)
        if self._text is None:
            return
        if not sites:
            job.lockstep.skip(number, self._text)  # it did not have to go through it twice
        if self._after is not None:
            self._after.look_ahead(number, self._text)
        else:
            lanes = LayerLanes.of(subject, number, self._keep_U[None], None)
            job.lockstep.advance(number, self._text, lanes)

    def _gaps(self, number: int) -> LayerGaps | None:
        """What is to be read of how the layer's sites miss the dense model's; None where nothing is corrected."""
        if self._dense is None:
            return None
        behind, table = self._dense.advance_to(number), self._job.table
        so_far = [site for site in table if site.layer <= number]
        is_dense = all(self._keep_U[site.units].all() for site in so_far)
        if behind is None or is_dense or not table.layer_stays(number, self._keep_U):
            return None
        return LayerGaps(self._job.subject, number, self._alive_U, behind)

    def _corrected(self, site: Site, repair: Repair, statistics: Totals, gaps: LayerGaps) -> Repair:
        compensator = self._job.methods.compensator
        assert isinstance(compensator, ResidualCompensator)
        statistic = statistics[site.name]
        return site_correction(
            self._job.subject, compensator, statistic, site, self._alive_U, self._keep_U, repair, gaps
        )

    def _apply(self, site: Site, repair: Repair) -> None:
        subject = self._job.subject
        in_type = repair.to(subject.dtype_of(site))  # as it is read again
        subject.repair(site, self._keep_U, in_type)
        if self._stored is not None:
            self._stored.save_repair(site.name, in_type)

    def _statistics(self, number: int, gaps: LayerGaps | None) -> Totals:
        """What the compensator reads of the text in front of a layer that has not lost anything yet."""
        if self._text is None:
            return {}
        collected = LayerTotals(self._job.subject, number, self._job.methods.compensator, self._alive_U)
        lanes = LayerLanes.of(self._job.subject, number, self._alive_U[None], None)

        def add(before: Tensor, after: Tensor) -> None:
            collected.add(before, after)
            if gaps is not None:
                gaps.add(before, after)

        with ExitStack() as stack:
            stack.enter_context(collected.reading())
            if gaps is not None:
                stack.enter_context(gaps.reading())
            self._job.lockstep.advance(number, self._text, lanes, add, only_look=True)
        return collected.result()

    def _standing(self, number: int) -> list[Site]:
        """The sites of a layer with an output projection that have units alive, if the layer stays."""
        subject = self._job.subject
        if not subject.table.layer_stays(number, self._keep_U):
            return []
        sites = (site for site in subject.sites_present() if site.layer == number and site.has_output)
        return [site for site in sites if self._alive_U[site.units].any()]

    def _loses(self, site: Site) -> bool:
        """Whether a site loses units that were alive at the round's start."""
        return bool((self._alive_U & ~self._keep_U)[site.units].any())
