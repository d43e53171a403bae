"""What a run will do, from its configuration and the size of its texts alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bonsai_core.config import RunConfig


@dataclass(frozen=True)
class Work:
    """Tokens of one pass over each part of the data; 0 where a part is not needed.

    Attributes:
        statistics: the prior's windows, once for the prior and once for the compensator, or once for both.
        submodel: what one sub-model is measured on, times the number of sub-models a round.
        dense: what the dense model's side of the metric is computed on, all rounds together.
        evaluation: the evaluation windows.
    """

    statistics: int
    submodel: int
    dense: int
    evaluation: int


@dataclass(frozen=True)
class Plan:
    """The work ahead.

    Attributes:
        targets: sparsity after each round; the last one is the run's.
        prune_tokens: tokens of one round's forward passes, evaluation aside.
        forward_tokens: tokens of all forward passes of the run, latency timing aside.
    """

    targets: tuple[float, ...]
    prune_tokens: int
    forward_tokens: int


def round_targets(config: RunConfig) -> tuple[float, ...]:
    """Rounds of `round_fraction` until the sparsity is reached, the last one clipped."""
    num_rounds = max(1, math.ceil(config.sparsity / config.round_fraction - 1e-9))
    return (*((i + 1) * config.round_fraction for i in range(num_rounds - 1)), config.sparsity)


def make_plan(config: RunConfig, work: Work) -> Plan:
    """The plan of a run over so much data."""
    targets = round_targets(config)
    prune_tokens = work.statistics + work.submodel
    between = (len(targets) - 1) * work.evaluation if config.eval_rounds else 0
    return Plan(targets, prune_tokens, len(targets) * prune_tokens + between + work.dense + 2 * work.evaluation)
