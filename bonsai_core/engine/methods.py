"""The chosen plugins, and whether they fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from bonsai_core.config import RunConfig
from bonsai_core.contracts import (
    ChoiceMetric,
    Compensator,
    Estimator,
    Metric,
    Prior,
    Sampler,
    TextCompensator,
    TextPrior,
    TokenMetric,
)
from bonsai_core.engine.function_metric import PREFIX, FunctionMetric, ModelFunction
from bonsai_core.errors import BonsaiError
from bonsai_core.registry.registry import Registry
from bonsai_core.units import WHOLE_KINDS


@dataclass(frozen=True)
class Methods:
    """The chosen plugins."""

    prior: Prior
    sampler: Sampler
    metric: Metric
    estimator: Estimator
    compensator: Compensator

    @property
    def needs_submodels(self) -> bool:
        """Whether sub-models are measured at all."""
        return self.estimator.needs_measurements

    @property
    def compared(self) -> bool:
        """Whether sub-models are compared with the dense model."""
        return self.needs_submodels and self.metric.needs_dense

    @property
    def repairs_submodels(self) -> bool:
        """Whether sub-models may be repaired before they are measured."""
        return self.needs_submodels and self.compensator.repairs

    @property
    def prior_reads_text(self) -> bool:
        """Whether the prior needs a pass over its windows."""
        return isinstance(self.prior, TextPrior)

    @property
    def compensator_reads_text(self) -> bool:
        """Whether repairs need a pass over the prior's windows."""
        return self.compensator.repairs and isinstance(self.compensator, TextCompensator)

    @property
    def statistics_passes(self) -> int:
        """Passes over the prior's windows in a round: for the prior, and for each layer before and after its repair."""
        return self.prior_reads_text + 2 * self.compensator_reads_text


def choose_methods(config: RunConfig, registry: Registry, function: ModelFunction | None = None) -> Methods:
    """The configured plugins, their options checked, and whether they fit together.

    Raises:
        BonsaiError: no such plugin or option, or two that do not work together.
    """
    if function is None and config.metric.name.startswith(PREFIX):
        raise BonsaiError(
            f"The metric is the Python function {config.metric.name.removeprefix(PREFIX)}, which the command line "
            f"cannot load. Pass it from Python: bonsai_core.run(config, metric=function) or "
            f"resume(run, metric=function)."
        )
    if function is not None and config.executor == "ray":
        raise BonsaiError("A Python function measures in this process: leave executor ray out, or make it a plugin.")
    metric = FunctionMetric(function=function) if function else cast(Metric, registry.create("metric", config.metric))
    methods = Methods(
        cast(Prior, registry.create("prior", config.prior)),
        cast(Sampler, registry.create("sampler", config.sampler)),
        metric,
        cast(Estimator, registry.create("estimator", config.estimator)),
        cast(Compensator, registry.create("compensator", config.compensator)),
    )
    if methods.needs_submodels and methods.sampler.sequential and not methods.estimator.gives_spread:
        offered = [cast(type[Estimator], offer.item) for offer in registry.offers("estimator")]
        able = [estimator.name for estimator in offered if estimator.gives_spread]
        raise BonsaiError(
            f"The sampler {config.sampler.name!r} needs an estimator that reports its uncertainty, and "
            f"{config.estimator.name!r} does not. These do: {', '.join(able) or 'none'}."
        )
    if methods.compared and metric.reads != "text":
        raise BonsaiError(f"The metric {metric.name!r} compares with the dense model, so it must read text.")
    if config.search and not (methods.needs_submodels and metric.reads == "text"):
        raise BonsaiError(
            "--search measures sub-models on text: it needs an estimator that measures, and a metric that reads text."
        )
    if config.search and not set(config.units) - WHOLE_KINDS:
        raise BonsaiError(
            "--search swaps single units between sites: add attention, query, mlp, experts or expert_width to --units."
        )
    if methods.compensator.adds_bias and config.stock:
        raise BonsaiError(
            f"The compensator {config.compensator.name!r} adds biases, which stock checkpoints have no place for: use "
            f"--shapes free, or another --compensator."
        )
    return methods


def runs_in_lockstep(metric: Metric) -> bool:
    """Whether a metric needs predictions alone; others get the model itself, one sub-model at a time."""
    return type(metric).measure in (TokenMetric.measure, ChoiceMetric.measure)
