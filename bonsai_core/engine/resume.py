"""Resumes whatever was interrupted: a run, or an adaptation."""

from __future__ import annotations

from pathlib import Path

from bonsai_core.adaptation.directory import is_adaptation
from bonsai_core.adaptation.lifecycle import AdaptResult, resume_adaptation
from bonsai_core.engine import lifecycle
from bonsai_core.engine.function_metric import ModelFunction
from bonsai_core.errors import BonsaiError
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.measurement_cache import MeasurementCache


def resume(
    path: Path | str,
    *,
    trust_remote_code: bool = False,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    cache: MeasurementCache | None = None,
) -> lifecycle.RunResult | AdaptResult:
    """Continue a run or an adaptation that was interrupted; a finished one is returned as it is.

    Args:
        path: its directory.
        trust_remote_code: allow modeling code that comes with the model, where it was started so.
        registry: as for `run` and `adapt`.
        metric: of a run that was started with a function as metric, the same function.
        cache: of a run, as for `run`.

    Raises:
        BonsaiError: there is nothing to continue, its configuration, text or model changed, or another process has it.
    """
    path = Path(path)
    if not is_adaptation(path):
        return lifecycle.resume_run(
            path, trust_remote_code=trust_remote_code, registry=registry, metric=metric, cache=cache
        )
    if metric is not None:
        raise BonsaiError(f"{path} is an adaptation, which measures no sub-models: resume it without a metric.")
    return resume_adaptation(path, trust_remote_code=trust_remote_code, registry=registry)
