"""The engine: the only place that sees every stage."""

from bonsai_core.engine.dry_run import DryAdaptation, DryRun, dry_run
from bonsai_core.engine.lifecycle import RunResult, run
from bonsai_core.engine.resume import resume
from bonsai_core.rundir.measurement_cache import MeasurementCache

__all__ = ["DryAdaptation", "DryRun", "MeasurementCache", "RunResult", "dry_run", "resume", "run"]
