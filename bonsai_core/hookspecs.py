"""The hooks a plugin may implement: this page is the manual.

A plugin is a module (or any object) named by an entry point in the group ``bonsai``:

```toml
[project.entry-points.bonsai]
my_pruning_ideas = "my_package.plugin"
```

and in it any of the hooks below, marked with ``@hookimpl`` (``from bonsai_core import hookimpl``). A hook takes exactly
the parameters named here, without defaults. All but `bonsai_observe` register classes or declarations and never
compute; they are called once, when plugins are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from bonsai_core.contracts import Compensator, Estimator, Exporter, Family, Metric, Prior, Recipe, Sampler, Tracker
    from bonsai_core.events import Event

PROJECT = "bonsai"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def bonsai_priors() -> Sequence[type[Prior]]:  # type: ignore[empty-body]
    """Subclasses of `WeightPrior`, `InputPrior`, `LayerPrior` or `MomentPrior`: a cheap score per unit."""


@hookspec
def bonsai_samplers() -> Sequence[type[Sampler]]:  # type: ignore[empty-body]
    """Subclasses of `Sampler`: which sub-models to measure."""


@hookspec
def bonsai_metrics() -> Sequence[type[Metric]]:  # type: ignore[empty-body]
    """Subclasses of `Metric`, `TokenMetric` or `ChoiceMetric`: how good a sub-model is."""


@hookspec
def bonsai_estimators() -> Sequence[type[Estimator]]:  # type: ignore[empty-body]
    """Subclasses of `Estimator`: from measurements to importances."""


@hookspec
def bonsai_slicers() -> Sequence[Family]:  # type: ignore[empty-body]
    """Instances of `Family`: where a model family keeps its units."""


@hookspec
def bonsai_compensators() -> Sequence[type[Compensator]]:  # type: ignore[empty-body]
    """Subclasses of `WeightCompensator`, `InputCompensator`, `MomentCompensator` or `LayerCompensator`: repair."""


@hookspec
def bonsai_exporters() -> Sequence[type[Exporter]]:  # type: ignore[empty-body]
    """Subclasses of `Exporter`: checkpoints in the format of a runtime."""


@hookspec
def bonsai_trackers() -> Sequence[type[Tracker]]:  # type: ignore[empty-body]
    """Subclasses of `Tracker`: where a run's values are kept, for ``--tracker``."""


@hookspec
def bonsai_recipes() -> Sequence[Recipe]:  # type: ignore[empty-body]
    """Instances of `Recipe`: named settings for ``--config``."""


@hookspec
def bonsai_adaptations() -> Sequence[Recipe]:  # type: ignore[empty-body]
    """Instances of `Recipe`: named settings for ``bonsai adapt --config`` and ``bonsai run --adapt``."""


@hookspec
def bonsai_observe(event: Event) -> None:
    """Called for every event of a run, a sweep, an adaptation or an evaluation, in order, in its own thread.

    For progress, logging and trackers. The events are the classes of `bonsai_core.events`, which is public; switch on
    their type, and ignore what you do not know. An exception raised here stops the run (its journal stays intact),
    so an observer that may fail should handle that itself.
    """
