"""MLflow, https://mlflow.org: a folder, a database or a tracking server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from bonsai_core import TrackedRun, Tracker

LONGEST_PARAMETER = 6000  # characters of a value that MLflow 3 stores


class Mlflow(Tracker):
    """An MLflow run; a Bonsai run that is resumed becomes another one of the same name."""

    name: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow"
    requirement: ClassVar[str] = "mlflow-skinny"
    uri: str = Field("", description="Tracking URI. Left out: what MLFLOW_TRACKING_URI says, or MLflow's own default.")
    experiment: str = Field("bonsai", description="Experiment that the runs belong to, made if it is not there.")

    def open(self, name: str, directory: Path, settings: Mapping[str, Any]) -> TrackedRun:
        from mlflow import MlflowClient

        client = MlflowClient(self.uri or None)
        there = client.get_experiment_by_name(self.experiment)
        experiment = there.experiment_id if there else client.create_experiment(self.experiment)
        run = client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            client.log_param(run, key, str(value)[:LONGEST_PARAMETER])
        return _MlflowRun(client, run)


class _MlflowRun(TrackedRun):
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, f"{group}/{name}", value, step=step)

    def close(self, summary: Mapping[str, float]) -> None:
        for name, value in summary.items():
            self._client.log_metric(self._run, f"report/{name}", value)
        self._client.set_terminated(self._run, "FINISHED" if summary else "KILLED")
