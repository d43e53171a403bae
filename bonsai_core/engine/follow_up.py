"""What `adapt` in a run's configuration means: an adaptation that follows it, in its directory."""

from __future__ import annotations

from pathlib import Path

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.curriculum import Curriculum, plan_curriculum
from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
from bonsai_core.adaptation.lifecycle import AdaptResult, adapt, continue_adaptation
from bonsai_core.adaptation.rank_checks import refuse_alone
from bonsai_core.adaptation.ranks import ALONE
from bonsai_core.config import RunConfig
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.publishing.push import check_push
from bonsai_core.registry.recipes import recipe_settings
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory, refuse_changes, refuse_code
from bonsai_core.settings.common import CommonSettings
from bonsai_core.sources import with_absolute_paths
from bonsai_core.tracking.observer import ready_tracker


def planned_adaptation(config: RunConfig, registry: Registry, path: Path) -> AdaptConfig | None:
    """The adaptation that is to follow a run in `path`; what its recipe leaves open is as in the run.

    Raises:
        BonsaiError: there is no such recipe, or a setting in it is wrong.
    """
    if config.adapt is None:
        return None
    settings = {name: getattr(config, name) for name in (*CommonSettings.model_fields, "tracker")}
    settings |= recipe_settings(config.adapt, registry, "adaptation")
    return AdaptConfig.from_mapping(
        {**settings, "model": str(path), "out": RunDirectory(path).adapted_path}, config.adapt
    )


def check_publishing(plan: AdaptConfig, registry: Registry, path: Path | None = None) -> None:
    """Check, before the run, that the adaptation after it can be pushed and tracked, where it is to be.

    Args:
        path: the directory of the adaptation, if some of the work is done already.

    Raises:
        BonsaiError: it cannot be.
    """
    check_push(plan, path)
    ready_tracker(plan.tracker, registry)


def check_ahead(plan: AdaptConfig, config: RunConfig, registry: Registry) -> Curriculum:
    """What the adaptation will do, checked on the dense model, so that nothing fails once it is pruned.

    Raises:
        BonsaiError: something is missing, or does not fit the model.
    """
    refuse_alone(plan, ALONE)
    source = find_source(config.model)
    dense = model_config(source, plan.trust_remote_code)
    texts = (config.dataset, config.eval_dataset)
    return plan_curriculum(plan, registry, source, dense, config.model, texts, config.slicer, lambda text: None)


def follow_up(plan: AdaptConfig, registry: Registry) -> AdaptResult:
    """Run the adaptation, or finish one that was interrupted.

    Raises:
        BonsaiError: its place is taken by another adaptation, or it fails.
    """
    assert plan.out is not None
    if is_adaptation(plan.out):
        there = AdaptDirectory.open(plan.out)
        refuse_changes("adaptation", there.config().decisive(), with_absolute_paths(plan).decisive())
        stored = there.config()
        refuse_code(plan.out, wanted=stored.trust_remote_code, trusted=plan.trust_remote_code)
        agreed = {name: getattr(plan, name) for name in ("tracker", "push_to_hub", "private")}
        return continue_adaptation(there, stored.model_copy(update=agreed), registry)
    return adapt(plan, registry=registry)
