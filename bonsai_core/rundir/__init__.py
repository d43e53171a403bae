"""The run directory: configuration, journal, arrays of the rounds, checkpoint, report."""

from bonsai_core.rundir.directory import RunDirectory
from bonsai_core.rundir.journal import Journal

__all__ = ["Journal", "RunDirectory"]
