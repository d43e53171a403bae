"""The files of an adaptation."""

from __future__ import annotations

from pathlib import Path
from typing import final

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.rundir import CHECKPOINT_TEMPORARIES, COMMON_FILES, AdaptReport, Directory, Names
from bonsai_core.settings.recipe_files import read_recipe


@final
class AdaptDirectory(Directory):
    """A run directory of an adaptation.

    Beside journal, checkpoint and report: `adapt.yaml`, what the teacher said (`teacher/`, until the end), the last
    saved state, and the curve as SVG and PNG.

    Args:
        path: the directory.
    """

    CONFIG_NAME = "adapt.yaml"
    REPORT = AdaptReport
    NAMES = Names(
        files=(r"(adapt\.yaml|state\.safetensors)(\.partial)?", r"curve\.(svg|png)", *COMMON_FILES),
        folders=("model", *CHECKPOINT_TEMPORARIES, "teacher"),
        temporaries=(
            r"(adapt\.yaml|report\.json|state\.safetensors)\.partial",
            r"teacher/(ids|log_p|windows)\.(bin|json)\.partial",
            *CHECKPOINT_TEMPORARIES,
        ),
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.teacher_path = path / "teacher"
        self.state_path = path / "state.safetensors"
        self.curve_path = path / "curve"

    def config(self) -> AdaptConfig:
        values = read_recipe(self.config_path)
        return AdaptConfig.from_mapping({**values, "out": str(self.path)}, str(self.config_path))


def is_adaptation(path: Path) -> bool:
    """Whether a directory is that of an adaptation, not of a run."""
    config_path = AdaptDirectory(path).config_path
    return config_path.exists() or config_path.is_symlink()  # links to nothing are refused when it is opened
