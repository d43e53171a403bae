"""Weights & Biases, https://wandb.ai."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from bonsai_core import TrackedRun, Tracker


class Wandb(Tracker):
    """A Weights & Biases run; a Bonsai run that is resumed becomes another one of the same name."""

    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"
    requirement: ClassVar[str] = "wandb"
    project: str = Field("bonsai", description="Project that the runs belong to.")
    entity: str = Field("", description="User or team. Left out: your default.")
    mode: Literal["online", "offline"] = Field(
        "online", description="offline: files in the run directory, for `wandb sync`."
    )

    def open(self, name: str, directory: Path, settings: Mapping[str, Any]) -> TrackedRun:
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity or None,
            name=name,
            dir=str(directory),
            config=dict(settings),
            mode=self.mode,
        )
        run.define_metric("*", step_metric="step")  # its own counter never goes back, and groups come in any order
        return _WandbRun(run)


class _WandbRun(TrackedRun):
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({**{f"{group}/{name}": value for name, value in values.items()}, "step": step})

    def close(self, summary: Mapping[str, float]) -> None:
        self._run.summary.update({f"report/{name}": value for name, value in summary.items()})
        self._run.finish(exit_code=0 if summary else 1)
