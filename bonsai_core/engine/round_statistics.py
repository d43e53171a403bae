"""What a round's text tells its prior and its compensator about the model as the round finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Statistic
from bonsai_core.engine.blocks import read_layer
from bonsai_core.engine.job import Job
from bonsai_core.engine.workers import Workers
from bonsai_core.model.forward.layer_totals import MOMENTS, Reader, statistic_of
from bonsai_core.model.forward.lockstep import Stream

Totals = Mapping[str, Statistic]
"""By site name, what a prior or a compensator reads of the text; nothing where it reads none."""


class RoundStatistics:
    """Statistics of the model as a round finds it, which must not change while they are asked for.

    They live for one layer at a time, unless they are needed again and fit: second moments into the job's share of
    memory, others always, for they are small.

    Args:
        windows_NT: the round's text, int64 [windows, sequence].
        alive_U: the units alive, bool [U].
    """

    def __init__(self, job: Job, windows_NT: NDArray[np.int64], alive_U: NDArray[np.bool_], workers: Workers) -> None:
        self.alive_U = alive_U
        self.windows_NT = windows_NT
        self._job = job
        self._workers = workers
        self._kept: dict[str, dict[int, Totals]] = {}

    def sweep(self, reader: Reader, *, again: bool = False) -> Callable[[int], Totals]:
        """The statistics of a plugin, to be asked for at every layer of a sweep, which their text passes then.

        Args:
            again: whether the text goes through the model for the sake of others; its tokens do not count as work then.
        """
        name = statistic_of(reader)
        if name is None:
            return lambda number: {}
        if self.has(reader):
            return lambda number: self._kept[name][number]
        needed = self._needed_again()
        if all(map(self._fits, (reader, *needed))) and self._spread([reader, *needed], counted=not again):
            return lambda number: self._kept[name][number]
        stream = self._job.lockstep.stream(self.windows_NT, counted=not again)
        return lambda number: self._pass(number, stream, [reader, *needed], needed)[name]

    def has(self, reader: Reader) -> bool:
        """Whether a plugin's statistics are in memory, for all layers."""
        kept = self._kept.get(statistic_of(reader) or "", {})
        return all(number in kept for number in self._job.subject.layers_present())

    def forget(self) -> None:
        """Free what is kept."""
        self._kept.clear()

    def look_ahead(self, number: int, stream: Stream) -> None:
        """Put the text, on its way through a model that becomes the one that the round finds, through a layer.

        What the round's plugins read there is kept.
        """
        readers = [one for one in (self._job.methods.prior, *self._needed_again()) if self._fits(one)]
        self._pass(number, stream, readers, readers)

    def _pass(self, number: int, stream: Stream, readers: list[Reader], kept: list[Reader]) -> Mapping[str, Totals]:
        """Put the text through a layer; what plugins read there, by the names of the statistics."""
        wanted = {statistic_of(reader) or "": reader for reader in readers}
        totals = read_layer(self._job.lockstep, number, stream, wanted, self.alive_U)
        results = {name: total.result() for name, total in totals.items()}
        for name in map(statistic_of, kept):
            self._kept.setdefault(name or "", {})[number] = results[name or ""]
        return results

    def _spread(self, readers: list[Reader], *, counted: bool) -> bool:
        """Have all workers sum what plugins read, which is kept; False where this process does so alone."""
        methods = self._job.methods
        roles: dict[str, Reader] = {"prior": methods.prior, "compensator": methods.compensator}
        wanted = {statistic_of(reader): role for role, reader in roles.items() if reader in readers}
        totals = self._workers.totals(
            self.windows_NT, self.alive_U, {role: roles[role] for role in wanted.values()}, counted=counted
        )
        if totals is None:
            return False
        for name, role in wanted.items():
            self._kept[name or ""] = {number: total.result() for number, total in totals[role].items()}
        return True

    def _needed_again(self) -> list[Reader]:
        """Plugins besides the prior whose statistics the round needs."""
        methods = self._job.methods
        return [methods.compensator] if methods.repairs_submodels and self._fits(methods.compensator) else []

    def _fits(self, reader: Reader) -> bool:
        """Whether a plugin reads text, and its statistics of all layers fit into memory."""
        name = statistic_of(reader)
        return name is not None and (name != MOMENTS or self._job.keeps_moments)
