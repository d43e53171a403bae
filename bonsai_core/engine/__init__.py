"""The engine: the only place that sees every stage."""

from bonsai_core.engine.lifecycle import RunResult, dry_run, resume, run

__all__ = ["RunResult", "dry_run", "resume", "run"]
