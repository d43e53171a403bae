"""What a round's text tells its prior and its compensator about the model as the round finds it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Statistic
from bonsai_core.engine.job import Job
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import MOMENTS, LayerTotals, Reader, statistic_of

Totals = Mapping[str, Statistic]
"""By site name, what a prior or a compensator reads of the text; nothing where it reads none."""


class RoundStatistics:
    """Statistics of the model as a round finds it, which must not change while they are asked for.

    They live for one layer at a time. Those that sub-models' repairs need again are kept: second moments if those of
    all layers fit into the job's share of memory, others always, for they are small.

    Args:
        windows_NT: the round's text, int64 [windows, sequence].
        alive_U: the units alive, bool [U].
    """

    def __init__(self, job: Job, windows_NT: NDArray[np.int64], alive_U: NDArray[np.bool_]) -> None:
        self.alive_U = alive_U
        self.windows_NT = windows_NT
        self._job = job
        self._kept: dict[int, Totals] = {}

    def sweep(self, reader: Reader, *, again: bool = False) -> StatisticsSweep:
        """The statistics of a plugin, to be asked for layer by layer in order.

        Args:
            again: whether the text goes through the model for the sake of others; its tokens do not count as work then.
        """
        return StatisticsSweep(self._job, self, reader, counted=not again)

    def kept(self, statistic: str | None, number: int) -> Totals | None:
        """Those of a layer that are in memory."""
        return self._kept.get(number) if statistic == statistic_of(self._job.methods.compensator) else None

    def keep(self, reader: Reader, number: int, totals: Totals) -> None:
        """Keep those of a layer, if sub-models' repairs need them again and they fit."""
        methods, statistic = self._job.methods, statistic_of(reader)
        needed = methods.repairs_submodels and statistic == statistic_of(methods.compensator)
        if needed and (statistic != MOMENTS or self._job.keeps_moments):
            self._kept[number] = totals


class StatisticsSweep:
    """The round's text on its way through the layers, unless everything that it would tell is in memory."""

    def __init__(self, job: Job, statistics: RoundStatistics, reader: Reader, *, counted: bool) -> None:
        self._job = job
        self._statistics = statistics
        self._reader = reader
        name = statistic_of(reader)
        missing = any(statistics.kept(name, number) is None for number in job.subject.layers_present())
        self._stream = job.lockstep.stream(statistics.windows_NT, counted=counted) if name and missing else None

    def layer(self, number: int) -> Totals:
        """Those of a layer, which the text passes."""
        if self._stream is None:
            return self._statistics.kept(statistic_of(self._reader), number) or {}
        subject, alive_U = self._job.subject, self._statistics.alive_U
        totals = LayerTotals(subject, number, self._reader, alive_U)
        with totals.reading():
            lanes = LayerLanes.of(subject, number, alive_U[None], None)
            self._job.lockstep.advance(number, self._stream, lanes, totals.add)
        result = totals.result()
        self._statistics.keep(self._reader, number, result)
        return result
