"""The run directory: configuration, journal, arrays of the rounds, checkpoint, report."""

from bonsai_core.rundir.directory import CHECKPOINT_TEMPORARIES, COMMON_FILES, JournaledDirectory
from bonsai_core.rundir.files import held, whole_file, whole_folder, write_whole
from bonsai_core.rundir.identity import refuse_changes, refuse_code
from bonsai_core.rundir.journal import Journal
from bonsai_core.rundir.names import Names
from bonsai_core.rundir.reports import ADAPT_REPORT
from bonsai_core.rundir.room import check_disk, free_path
from bonsai_core.rundir.run_directory import RunDirectory

__all__ = [
    "ADAPT_REPORT",
    "CHECKPOINT_TEMPORARIES",
    "COMMON_FILES",
    "Journal",
    "JournaledDirectory",
    "Names",
    "RunDirectory",
    "check_disk",
    "free_path",
    "held",
    "refuse_changes",
    "refuse_code",
    "whole_file",
    "whole_folder",
    "write_whole",
]
