"""Trackio, https://github.com/gradio-app/trackio: a local database, or a Hugging Face Space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bonsai_core import TrackedRun, Tracker


class Trackio(Tracker):
    """A Trackio run, on this machine or in a Hugging Face Space; `trackio show` opens the dashboard."""

    name: ClassVar[str] = "trackio"
    package: ClassVar[str] = "trackio"
    requirement: ClassVar[str] = "trackio"
    project: str = Field("bonsai", description="Project that the runs belong to.")
    space: str = Field("", description="Hugging Face Space to record in, as OWNER/NAME. Left out: this machine.")

    def open(self, name: str, directory: Path, settings: Mapping[str, Any]) -> TrackedRun:
        import trackio

        return _TrackioRun(
            trackio.init(
                project=self.project,
                name=name,
                space_id=self.space or None,
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        )


class _TrackioRun(TrackedRun):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        if summary:
            self._run.log({f"report/{name}": value for name, value in summary.items()})
        self._run.finish()
