"""The files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import final

from bonsai_core.config import RunConfig
from bonsai_core.rundir.directory import CHECKPOINT_TEMPORARIES, COMMON_FILES, JournaledDirectory
from bonsai_core.rundir.names import Names
from bonsai_core.rundir.report_schema import RUN_REPORT


@final
class RunDirectory(JournaledDirectory):
    """One run's files."""

    CONFIG_NAME = "config.yaml"
    REPORT = RUN_REPORT
    NAMES = Names(
        files=(r"config\.yaml(\.partial)?", *COMMON_FILES),
        folders=("model", *CHECKPOINT_TEMPORARIES, r"round-\d{3,}", r"scratch\.partial"),
        nested=("adapted",),
        temporaries=(
            r"(config\.yaml|report\.(json|html)|scratch)\.partial",
            r"round-\d{3,}/((prior|selection)\.npz|repair)\.partial",
            r"round-\d{3,}/\.repair\.(partial|previous)",
            *CHECKPOINT_TEMPORARIES,
        ),
    )

    def config(self) -> RunConfig:
        return self._read_config(RunConfig)

    @property
    def adapted_path(self) -> Path:
        """Where an adaptation of the run goes."""
        return self.path / "adapted"
