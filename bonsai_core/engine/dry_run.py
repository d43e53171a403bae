"""What a run would do, without doing it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bonsai_core.adaptation.curriculum import Curriculum
from bonsai_core.config import RunConfig
from bonsai_core.engine.adaptation import check_ahead, planned_adaptation
from bonsai_core.engine.job import Job
from bonsai_core.engine.setup import open_job
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory, check_disk
from bonsai_core.sources import with_absolute_paths


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        job: what it would work with.
        seconds: rough time of the forward passes.
        adaptation: what follows the run, if anything.
        adaptation_seconds: rough time of its passes.
    """

    job: Job
    seconds: float
    adaptation: Curriculum | None
    adaptation_seconds: float


def dry_run(config: RunConfig, *, registry: Registry | None = None) -> DryRun:
    """Load and check everything, time one batch, and stop; nothing is written."""
    registry = registry or Registry()
    if config.out:
        RunDirectory(config.out).refuse_occupied()
    config = with_absolute_paths(config)
    plan = planned_adaptation(config, registry, config.out or Path())
    adaptation = check_ahead(plan, config, registry) if plan else None
    job = open_job(config, registry, registry.observe)
    check_disk(config.out or Path(), job.disk_bytes)
    batch = job.calibration.prior_RNT[0][: config.batch_size]
    job.passes.perplexity(batch)  # the first pass is slower than the rest
    start = time.perf_counter()
    job.passes.perplexity(batch)
    per_token = (time.perf_counter() - start) / batch.size
    later = adaptation.forward_tokens if adaptation else 0
    return DryRun(job, per_token * job.plan.forward_tokens, adaptation, per_token * later)
