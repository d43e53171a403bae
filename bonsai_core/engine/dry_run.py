"""What a run would do, without doing it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from bonsai_core.adaptation.workspace import Curriculum
from bonsai_core.config import RunConfig
from bonsai_core.engine.adaptation import check_ahead, planned_adaptation
from bonsai_core.engine.setup import (
    Workspace,
    disk_bytes,
    open_workspace,
    passes_over,
    with_absolute_paths,
)
from bonsai_core.events import Warned
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory, check_disk


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        work: the loaded workspace.
        seconds: rough time of the forward passes.
        adaptation: what follows the run, if anything.
        adaptation_seconds: rough time of its passes.
    """

    work: Workspace
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
    work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)))
    check_disk(config.out or Path(), disk_bytes(work))
    batch = work.prior_windows(1)[: config.batch_size]
    passes = passes_over(work, registry.observe)
    passes.perplexity(batch)  # the first pass is slower than the rest
    start = time.perf_counter()
    passes.perplexity(batch)
    per_token = (time.perf_counter() - start) / batch.size
    later = adaptation.forward_tokens if adaptation else 0
    return DryRun(work, per_token * work.plan.forward_tokens, adaptation, per_token * later)
