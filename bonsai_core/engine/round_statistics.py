"""What a round's text tells its prior and its compensator about the model as the round finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Statistic
from bonsai_core.engine.job import Job
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import MOMENTS, LayerTotals, Reader, statistic_of

Totals = Mapping[str, Statistic]
"""By site name, what a prior or a compensator reads of the text; nothing where it reads none."""


class RoundStatistics:
    """Statistics of the model as a round finds it, which must not change while they are asked for.

    They live for one layer at a time. Those that sub-models' repairs need are kept from the first sweep on: second
    moments if those of all layers fit into the job's share of memory, others always, for they are small.

    Args:
        windows_NT: the round's text, int64 [windows, sequence].
        alive_U: the units alive, bool [U].
    """

    def __init__(self, job: Job, windows_NT: NDArray[np.int64], alive_U: NDArray[np.bool_]) -> None:
        self.alive_U = alive_U
        self._windows_NT = windows_NT
        self._job = job
        self._kept: dict[int, Totals] = {}

    def sweep(self, reader: Reader, *, again: bool = False) -> Callable[[int], Totals]:
        """The statistics of a plugin, to be asked for at every layer of a sweep, which their text passes then.

        Args:
            again: whether the text goes through the model for the sake of others; its tokens do not count as work then.
        """
        job, name, kept = self._job, statistic_of(reader), self._keeps
        if name is None:
            return lambda number: {}
        if name == kept and all(number in self._kept for number in job.subject.layers_present()):
            return lambda number: self._kept[number]
        stream = job.lockstep.stream(self._windows_NT, counted=not again)
        readers = {name: reader} | ({} if kept is None else {kept: job.methods.compensator})

        def layer(number: int) -> Totals:
            totals = {name: LayerTotals(job.subject, number, one, self.alive_U) for name, one in readers.items()}

            def add(before: Tensor, after: Tensor) -> None:
                for total in totals.values():
                    total.add(before, after)

            with ExitStack() as stack:
                for total in totals.values():
                    stack.enter_context(total.reading())
                lanes = LayerLanes.of(job.subject, number, self.alive_U[None], None)
                job.lockstep.advance(number, stream, lanes, add)
            results = {name: total.result() for name, total in totals.items()}
            if kept is not None:
                self._kept[number] = results[kept]
            return results[name]

        return layer

    @property
    def _keeps(self) -> str | None:
        """The statistic that sub-models' repairs need and that fits into memory; None if there is none."""
        methods = self._job.methods
        name = statistic_of(methods.compensator) if methods.repairs_submodels else None
        return None if name == MOMENTS and not self._job.keeps_moments else name
