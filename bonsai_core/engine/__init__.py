"""The engine: the only place that sees every stage."""

from bonsai_core.engine.dry_run import dry_run
from bonsai_core.engine.lifecycle import RunResult, resume, run
from bonsai_core.rundir.measurement_cache import MeasurementCache

__all__ = ["MeasurementCache", "RunResult", "dry_run", "resume", "run"]
