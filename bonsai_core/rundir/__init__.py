"""The run directory: configuration, journal, arrays of the rounds, checkpoint, report."""

from bonsai_core.rundir.directory import CHECKPOINT_TEMPORARIES as CHECKPOINT_TEMPORARIES
from bonsai_core.rundir.directory import COMMON_FILES as COMMON_FILES
from bonsai_core.rundir.directory import JournaledDirectory as JournaledDirectory
from bonsai_core.rundir.files import held as held
from bonsai_core.rundir.files import whole_file as whole_file
from bonsai_core.rundir.files import whole_folder as whole_folder
from bonsai_core.rundir.files import write_whole as write_whole
from bonsai_core.rundir.identity import refuse_changes as refuse_changes
from bonsai_core.rundir.identity import refuse_code as refuse_code
from bonsai_core.rundir.journal import Journal as Journal
from bonsai_core.rundir.names import Names as Names
from bonsai_core.rundir.reports import ADAPT_REPORT as ADAPT_REPORT
from bonsai_core.rundir.room import check_disk as check_disk
from bonsai_core.rundir.room import free_path as free_path
from bonsai_core.rundir.run_directory import RunDirectory as RunDirectory
