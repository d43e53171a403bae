"""The engine: the only place that sees every stage."""

from bonsai_core.engine.dry_run import dry_run
from bonsai_core.engine.lifecycle import RunResult, resume, run
from bonsai_core.rundir.measurement_cache import SharedMeasurements

__all__ = ["RunResult", "SharedMeasurements", "dry_run", "resume", "run"]
