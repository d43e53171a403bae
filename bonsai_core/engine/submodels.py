"""Sub-models measured: in lockstep where the metric allows it, else one after the other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.engine.methods import runs_in_lockstep
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import MeasuringData
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.padding import padded_batches
from bonsai_core.model.forward.probe import ModelProbe


def measure_submodels(
    job: Job, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: Repairs | None
) -> list[float | None]:
    """The metric's values of some sub-models; None for one that is not finite.

    Args:
        keep_MU: bool [M, U].
        repairs: what repairs them; None if they are measured as they are.
    """
    measure = _in_lockstep if runs_in_lockstep(job.methods.metric) else _one_by_one
    values = measure(job, sample, keep_MU, repairs)
    return [value if np.isfinite(value) else None for value in values]


def _in_lockstep(job: Job, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: Repairs | None) -> list[float]:
    lockstep, data, metric = job.lockstep, sample.data, job.methods.metric
    padded = padded_batches(data.questions, lockstep.chunks.tokens)
    texts = [(batch.ids_NT, batch.lengths_N) for batch in padded] if padded else [(data.windows_NT, None)]
    streams = [lockstep.stream(ids_NT, len(keep_MU), lengths_N) for ids_NT, lengths_N in texts]
    repairs_of = (lambda number: None) if repairs is None else repairs.sweep()

    def visit(number: int) -> None:
        lanes = LayerLanes.of(job.subject, number, keep_MU, repairs_of(number))
        for stream in streams:
            lockstep.advance(number, stream, lanes)

    lockstep.sweep(visit)
    probes = (
        ModelProbe(None, job.tokenizer, lockstep.predictions(streams, lane), data, padded, sample.dense)
        for lane in range(len(keep_MU))
    )
    with lockstep.after_the_layers():
        return [float(metric.measure(probe)) for probe in probes]


def _one_by_one(job: Job, sample: MeasuringData, keep_MU: NDArray[np.bool_], repairs: Repairs | None) -> list[float]:
    padded, passes = padded_batches(sample.data.questions, job.passes.chunks.tokens), job.passes
    probe = ModelProbe(passes.model, job.tokenizer, passes.predictions, sample.data, padded, sample.dense)
    values = []
    for keep_U in keep_MU:
        sub_model = job.subject.masked(keep_U) if repairs is None else repairs.applied(keep_U)
        with sub_model, torch.no_grad():
            values.append(float(job.methods.metric.measure(probe)))
    return values
