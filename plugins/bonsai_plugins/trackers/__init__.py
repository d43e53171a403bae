"""Built-in trackers."""

from bonsai_core import Tracker, hookimpl
from bonsai_plugins.trackers.mlflow import Mlflow
from bonsai_plugins.trackers.tensorboard import Tensorboard
from bonsai_plugins.trackers.trackio import Trackio
from bonsai_plugins.trackers.wandb import Wandb


@hookimpl
def bonsai_trackers() -> list[type[Tracker]]:
    return [Mlflow, Tensorboard, Trackio, Wandb]
