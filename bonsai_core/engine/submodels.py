"""Sub-models measured: in lockstep where the metric allows it, else one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Metric
from bonsai_core.engine.methods import runs_in_lockstep
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.lockstep import Lockstep
from bonsai_core.model.forward.padding import padded_batches
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.probe import MeasuringData, ModelProbe
from bonsai_core.model.subject import RepairOf


class RepairSource(Protocol):
    """Where the repairs of sub-models come from."""

    def sweep(self) -> Callable[[int], RepairOf]:
        """Repairs of sites, asked for at every layer of a sweep; a site that loses nothing gets none."""


@dataclass(frozen=True)
class Bench:
    """What sub-models are measured with: a model, and a metric."""

    metric: Metric
    tokenizer: Any
    passes: Passes
    lockstep: Lockstep

    def values(
        self, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: RepairSource | None
    ) -> list[float | None]:
        """The metric's values of some sub-models, bool [M, U]; None for one that is not finite.

        Args:
            repairs: what repairs them; None if they are measured as they are.
        """
        measure = self._in_lockstep if runs_in_lockstep(self.metric) else self._one_by_one
        return [value if np.isfinite(value) else None for value in measure(sample, keep_MU, repairs)]

    def _in_lockstep(
        self, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: RepairSource | None
    ) -> list[float]:
        lockstep, data, metric = self.lockstep, sample.data, self.metric
        padded = padded_batches(data.questions, lockstep.chunks.tokens)
        texts = [(batch.ids_NT, batch.lengths_N) for batch in padded] if padded else [(data.windows_NT, None)]
        streams = [lockstep.stream(ids_NT, len(keep_MU), lengths_N) for ids_NT, lengths_N in texts]
        repairs_of = _no_repairs if repairs is None else repairs.sweep()

        def visit(number: int) -> None:
            lanes = LayerLanes.of(lockstep.subject, number, keep_MU, repairs_of(number))
            for stream in streams:
                lockstep.advance(number, stream, lanes)

        lockstep.sweep(visit)
        probes = (
            ModelProbe(None, self.tokenizer, lockstep.predictions(streams, lane), data, padded, sample.dense)
            for lane in range(len(keep_MU))
        )
        with lockstep.after_the_layers():
            return [float(metric.measure(probe)) for probe in probes]

    def _one_by_one(
        self, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: RepairSource | None
    ) -> list[float]:
        padded, passes = padded_batches(sample.data.questions, self.passes.chunks.tokens), self.passes
        probe = ModelProbe(passes.model, self.tokenizer, passes.predictions, sample.data, padded, sample.dense)
        repairs_of = _no_repairs if repairs is None else repairs.sweep()
        values = []
        for keep_U in keep_MU:
            masked = self.lockstep.subject.masked(keep_U, lambda site, keep_U: repairs_of(site.layer)(site, keep_U))
            with masked, torch.no_grad():
                values.append(float(self.metric.measure(probe)))
        return values


def _no_repairs(number: int) -> RepairOf:
    return lambda site, keep_U: None
