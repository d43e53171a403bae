"""The files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import final

from bonsai_core.config import RunConfig
from bonsai_core.rundir.directory import CHECKPOINT_TEMPORARIES, COMMON_FILES, Directory
from bonsai_core.rundir.names import Names
from bonsai_core.rundir.reports import RunReport
from bonsai_core.settings.recipe_files import read_recipe


@final
class RunDirectory(Directory):
    """A run's directory: beside journal, checkpoint and report `config.yaml`, its rounds, and what was adapted of it.

    Args:
        path: the directory.
    """

    CONFIG_NAME = "config.yaml"
    REPORT = RunReport
    NAMES = Names(
        files=(r"config\.yaml(\.partial)?", *COMMON_FILES),
        folders=("model", *CHECKPOINT_TEMPORARIES, r"round-\d{3,}", r"scratch\.partial"),
        nested=("adapted",),
        temporaries=(
            r"(config\.yaml|report\.json|scratch)\.partial",
            r"round-\d{3,}/((prior|selection)\.npz|repair)\.partial",
            r"round-\d{3,}/\.repair\.(partial|previous)",
            *CHECKPOINT_TEMPORARIES,
        ),
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.scratch_path = path / "scratch.partial"
        self.adapted_path = path / "adapted"

    def config(self) -> RunConfig:
        values = read_recipe(self.config_path)
        return RunConfig.from_mapping({**values, "out": str(self.path)}, str(self.config_path))
