"""TensorBoard: event files in the run directory, https://www.tensorflow.org/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bonsai_core import TrackedRun, Tracker


class Tensorboard(Tracker):
    """Event files in the folder `tensorboard` of the run directory; `tensorboard --logdir runs` shows all runs."""

    name: ClassVar[str] = "tensorboard"
    package: ClassVar[str] = "tensorboard"
    requirement: ClassVar[str] = "tensorboard"

    def open(self, name: str, directory: Path, settings: Mapping[str, Any]) -> TrackedRun:
        from torch.utils.tensorboard import SummaryWriter  # with torch, which listings do without

        writer = SummaryWriter(str(directory / self.name))
        rows = [f"| {key} | {value} |" for key, value in settings.items()]
        writer.add_text("settings", "\n".join([f"| {name} | |", "| --- | --- |", *rows]))
        return _EventFiles(writer)


class _EventFiles(TrackedRun):
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self, summary: Mapping[str, float]) -> None:
        for name, value in summary.items():
            self._writer.add_scalar(f"report/{name}", value)
        self._writer.close()
