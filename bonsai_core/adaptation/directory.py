"""The files of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir import ADAPT_REPORT, CHECKPOINT_TEMPORARIES, COMMON_FILES, JournaledDirectory, Names
from bonsai_core.settings.names import checked_name


@final
class AdaptDirectory(JournaledDirectory):
    """One adaptation's files.

    Beside journal, checkpoint and report: `adapt.yaml`, what the teacher said (`teacher/`, until the end), the last
    saved state, and the curve as SVG and PNG.
    """

    CONFIG_NAME = "adapt.yaml"
    REPORT = ADAPT_REPORT
    NAMES = Names(
        files=(r"(adapt\.yaml|state\.safetensors)(\.partial)?", r"curve\.(svg|png)", *COMMON_FILES),
        folders=("model", *CHECKPOINT_TEMPORARIES, "teacher"),
        temporaries=(
            r"(adapt\.yaml|report\.(json|html)|state\.safetensors)\.partial",
            r"teacher/windows-\d+\.json\.partial",
            *CHECKPOINT_TEMPORARIES,
        ),
    )

    def config(self) -> AdaptConfig:
        return self._read_config(AdaptConfig)

    @property
    def teacher_path(self) -> Path:
        """The folder of what the teacher said."""
        return self.path / "teacher"

    @property
    def state_path(self) -> Path:
        """The last saved state."""
        return self.path / "state.safetensors"

    @property
    def curve_path(self) -> Path:
        """The curve, without the ending of its files."""
        return self.path / "curve"


def is_adaptation(path: Path) -> bool:
    """Whether a directory is that of an adaptation, not of a run.

    Raises:
        BonsaiError: it has a name that no directory can have.
    """
    config_path = AdaptDirectory(Path(checked_name(str(path), "run directory"))).config_path
    return config_path.exists() or config_path.is_symlink()  # links to nothing are refused when it is opened


def adapted_report(path: Path) -> Mapping[str, Any] | None:
    """The report of an adaptation; None if there is none in `path`, or it is not finished, or is damaged."""
    with suppress(BonsaiError, FileNotFoundError):
        if is_adaptation(path):
            return AdaptDirectory.open(path).read_report()
    return None
