"""How many tokens go through a layer at once: what a short measurement on this device finds fastest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np

from bonsai_core.engine.job import Job
from bonsai_core.model.forward.chunks import CPU_TOKENS, GPU_TOKENS
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.latency import synchronize
from bonsai_core.model.storage.in_turn import in_turn
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step
from bonsai_core.rundir.measurement_cache import Arrays
from bonsai_core.rundir.versions import versions

WORTH_MEASURING = 10**13
"""Multiplications of a run (tokens x parameters) from which on the measurement is short beside it."""
SIZES = 4
"""Each twice the one before it."""
REPEATS = 3
BATCH_SECONDS = 60
"""Of work in a batch of sub-models, which is lost if the run is killed."""
FASTER = 0.9
"""A larger chunk must take less than this of the time of a smaller one, or it is not worth its memory."""


def choose_sizes(job: Job, ledger: Ledger) -> None:
    """Set the tokens of a chunk and of a batch of sub-models; a resumed run takes the first ones.

    Runs that are short, or whose chunks the user has chosen, get what is usual for their device.
    """
    lockstep, config = job.lockstep, job.config
    if config.batch_size is not None or job.plan.forward_tokens * job.table.total_params < WORTH_MEASURING:
        return
    smallest = CPU_TOKENS if job.subject.device.type == "cpu" else GPU_TOKENS // 4
    text = job.calibration.prior_RNT[0].size
    sizes = [size for n in range(SIZES) if (size := smallest * 2**n) <= text]

    def measure() -> Arrays:
        seconds = _seconds_per_token(job, sizes or [lockstep.chunk_tokens])
        chunk, best_s = next(iter(seconds.items()))
        for size, value in seconds.items():
            if value < FASTER * best_s:
                chunk, best_s = size, value
        return {"sizes": np.array([chunk, max(1, int(BATCH_SECONDS / best_s))])}

    def measured() -> Payload:
        # Runs that share measurements share the sizes, too, by which these are rounded.
        key = {"model": job.fingerprint, "dtype": config.dtype, "device": job.subject.device.type, "sizes": sizes}
        chunk, batch = ledger.cached({**key, "versions": versions()}, 0, measure)["sizes"]
        return {"tokens": int(chunk), "batch_tokens": min(lockstep.batch_tokens, int(batch))}

    found = ledger.once(Step("tune"), measured)
    lockstep.set_sizes(found["tokens"], config.batch_tokens or found["batch_tokens"])


def _seconds_per_token(job: Job, sizes: Sequence[int]) -> dict[int, float]:
    """Of all layers by the first one, with the prior's text in chunks of these sizes."""
    lockstep, windows_NT, layers = job.lockstep, job.calibration.prior_RNT[0], job.subject.layers_present()
    number = next(iter(layers))
    lanes = LayerLanes.of(job.subject, number, job.table.keep_all()[None], None)
    seconds = {}
    with closing(in_turn({number: layers[number]})) as turns:
        next(turns)
        for size in sizes:
            lockstep.set_sizes(size, lockstep.batch_tokens)
            stream = lockstep.stream(windows_NT[: max(1, size // windows_NT.shape[1])], counted=False)
            times = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                lockstep.advance(number, stream, lanes, only_look=True)
                synchronize(job.subject.device)
                times.append(time.perf_counter() - start)
            seconds[size] = min(times) * len(layers) / stream.ids_NT.size
    return seconds
