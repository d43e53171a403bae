"""What a run would do, without doing it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bonsai_core.config import RunConfig
from bonsai_core.engine.exports import suited_to_runtimes
from bonsai_core.engine.follow_up import check_ahead, planned_adaptation
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.engine.setup import open_job
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory, check_disk
from bonsai_core.selection.budget import Budget
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class DryAdaptation:
    """What an adaptation would do.

    Attributes:
        method: what it trains.
        steps: of the optimiser.
        tokens: to train on.
        seconds: rough time of its passes.
    """

    method: str
    steps: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        table: what can be removed.
        num_rounds: rounds until the budget is met.
        forward_tokens: tokens to put through the model.
        seconds: rough time of these forward passes.
        adaptation: what follows the run, if anything.
        budget: what is counted, and how much of it has to leave.
    """

    table: UnitTable
    num_rounds: int
    forward_tokens: int
    seconds: float
    adaptation: DryAdaptation | None
    budget: Budget


def dry_run(config: RunConfig, *, registry: Registry | None = None) -> DryRun:
    """Load and check everything, time one batch, and stop; nothing is written."""
    registry = registry or Registry()
    if config.out:
        RunDirectory(config.out).refuse_occupied()
    config = suited_to_runtimes(suited_to_machine(config), registry)
    plan = planned_adaptation(config, registry, config.out or Path())
    adaptation = check_ahead(plan, config, registry) if plan else None
    job = open_job(config, registry, registry.observe)
    check_disk(config.out or Path(), job.disk_bytes)
    batch = job.calibration.prior_RNT[0][: job.passes.chunks.windows(config.sequence_length)]
    job.passes.predictions.perplexity(batch)  # the first pass is slower than the rest
    start = time.perf_counter()
    job.passes.predictions.perplexity(batch)
    per_token = (time.perf_counter() - start) / batch.size
    follows = None
    if adaptation is not None:
        seconds = per_token * adaptation.forward_tokens
        follows = DryAdaptation(adaptation.config.method, adaptation.schedule.steps, adaptation.tokens, seconds)
    tokens = job.plan.forward_tokens
    return DryRun(job.table, len(job.plan.targets), tokens, per_token * tokens, follows, job.budget)
