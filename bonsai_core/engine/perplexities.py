"""What a run measures besides sub-models: perplexities, and the dense model's side of comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.engine.job import Job
from bonsai_core.model.forward.predictions import DenseSide
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger, Step
from bonsai_core.rundir.measurement_cache import Arrays


def perplexity(
    job: Job, keep_U: NDArray[np.bool_], step: Step, ledger: Ledger, cache_key: Mapping[str, Any] | None = None
) -> float | None:
    """Perplexity of the sub-model under a keep vector on the evaluation text; None where it is not finite.

    Args:
        cache_key: of the dense model's, which other runs may have measured.
    """
    windows_NT = job.evaluation_NT

    def measure() -> Arrays:
        return {"perplexity": np.array([job.lockstep.predictions_of(keep_U).perplexity(windows_NT)])}

    def compute() -> Payload:
        value = float(ledger.cached(cache_key, windows_NT.size, measure)["perplexity"][0])
        return {
            "perplexity": value if math.isfinite(value) else None,
            "windows": len(windows_NT),
            "sequence_length": windows_NT.shape[1],
        }

    value: float | None = ledger.once(step, compute)["perplexity"]
    return value


def dense_perplexity(job: Job, ledger: Ledger) -> float | None:
    """Perplexity of the dense model, which the job's model still is; None where it is not finite."""
    cache_key = {**job.cache_key, "perplexity": job.evaluation_NT} if ledger.has_cache else None
    return perplexity(
        job, job.table.keep_all(), Step("evaluate/dense", tokens=job.evaluation_NT.size), ledger, cache_key
    )


def dense_side(job: Job, windows_NT: NDArray[np.int64], ledger: Ledger) -> DenseSide:
    """The dense model's side of what sub-models are compared on, while the job's model is dense."""

    def compute() -> Arrays:
        side = job.lockstep.predictions_of(job.table.keep_all()).dense_side(windows_NT)
        return {name: tensor.cpu().numpy() for name, tensor in side._asdict().items()}

    cache_key = {**job.cache_key, "dense side": windows_NT} if ledger.has_cache else None
    arrays = ledger.cached(cache_key, windows_NT.size, compute)
    return DenseSide(**{name: torch.from_numpy(array) for name, array in arrays.items()}).to(job.subject.device)
