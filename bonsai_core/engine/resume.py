"""Resumes whatever was interrupted: a run, or an adaptation."""

from __future__ import annotations

from pathlib import Path

from bonsai_core.adaptation.directory import is_adaptation
from bonsai_core.adaptation.lifecycle import AdaptResult, resume_adaptation
from bonsai_core.config import Executor
from bonsai_core.engine import lifecycle
from bonsai_core.engine.function_metric import ModelFunction
from bonsai_core.errors import BonsaiError
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.measurement_cache import MeasurementCache


def resume(
    path: Path | str,
    *,
    trust_remote_code: bool = False,
    push_to_hub: str | None = None,
    tracker: str | None = None,
    executor: Executor | None = None,
    ray_address: str | None = None,
    workers: int | None = None,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    cache: MeasurementCache | None = None,
) -> lifecycle.RunResult | AdaptResult:
    """Continue a run or an adaptation that was interrupted; a finished one is returned as it is.

    Args:
        path: its directory.
        trust_remote_code: allow modeling code that comes with the model, where it was started so.
        push_to_hub: the name on the hub that it was started with, if it is to be pushed there; None: it is not pushed.
        tracker: the name of the tracker that it was started with, if that is to go on; None: nothing is sent.
            What is left out is said as a warning, with the option that turns it on.
        executor, ray_address, workers: what measures the sub-models of a run that are left, as in its settings; None:
            this machine, and no cluster whatever it was started with.
        registry: as for `run` and `adapt`.
        metric: of a run that was started with a function as metric, the same function.
        cache: of a run, as for `run`.

    Raises:
        BonsaiError: there is nothing to continue, its configuration, text or model changed, or another process has it.
    """
    path = Path(path)
    if not is_adaptation(path):
        return lifecycle.resume_run(
            path,
            trust_remote_code=trust_remote_code,
            push_to_hub=push_to_hub,
            tracker=tracker,
            executor=executor,
            ray_address=ray_address,
            workers=workers,
            registry=registry,
            metric=metric,
            cache=cache,
        )
    if (metric, executor, ray_address, workers) != (None,) * 4:
        raise BonsaiError(
            f"{path} is an adaptation, which measures no sub-models: resume it without a metric and an executor."
        )
    return resume_adaptation(
        path, trust_remote_code=trust_remote_code, push_to_hub=push_to_hub, tracker=tracker, registry=registry
    )
