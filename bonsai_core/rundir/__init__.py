"""The run directory: configuration, journal, arrays of the rounds, checkpoint, report."""

from bonsai_core.rundir.directory import RunDirectory, check_disk, free_path
from bonsai_core.rundir.identity import refuse_changes
from bonsai_core.rundir.journal import Journal

__all__ = ["Journal", "RunDirectory", "check_disk", "free_path", "refuse_changes"]
