"""The run directory: configuration, journal, arrays of the rounds, checkpoint, report."""

from bonsai_core.rundir.directory import CHECKPOINT_TEMPORARIES as CHECKPOINT_TEMPORARIES
from bonsai_core.rundir.directory import COMMON_FILES as COMMON_FILES
from bonsai_core.rundir.directory import JournaledDirectory as JournaledDirectory
from bonsai_core.rundir.disk import check_disk as check_disk
from bonsai_core.rundir.disk import free_path as free_path
from bonsai_core.rundir.files import atomic_file as atomic_file
from bonsai_core.rundir.files import atomic_folder as atomic_folder
from bonsai_core.rundir.files import held as held
from bonsai_core.rundir.files import write_atomically as write_atomically
from bonsai_core.rundir.identity import refuse_changes as refuse_changes
from bonsai_core.rundir.identity import refuse_code as refuse_code
from bonsai_core.rundir.journal import Journal as Journal
from bonsai_core.rundir.names import Names as Names
from bonsai_core.rundir.report_schema import ADAPT_REPORT as ADAPT_REPORT
from bonsai_core.rundir.run_directory import RunDirectory as RunDirectory
