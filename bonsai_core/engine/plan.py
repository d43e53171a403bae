"""What a run will do, from its configuration and the size of its texts alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bonsai_core.config import RunConfig
from bonsai_core.model.forward.probe import CalibrationData
from bonsai_core.settings.quantities import TARGETS
from bonsai_core.units import WHOLE_KINDS

OFFSPRING, FINALISTS = 8, 2
"""Of the search: swaps tried in a generation, and how many of them are measured on all of its windows."""
FIRST_HEAT = 4
"""All swaps are measured on one window in this many."""


@dataclass(frozen=True)
class TokenBudget:
    """Tokens of one pass over each part of the data; 0 where a part is not needed.

    Attributes:
        statistics: the prior's windows, once for the prior and once for the compensator, or once for both.
        submodel: what one sub-model is measured on, times the number of sub-models a round.
        search: what the search of one round measures on.
        divergence: what KL to the dense model is measured on after a round.
        dense: what the dense model's side of all comparisons is computed on.
        evaluation: the evaluation windows.
    """

    statistics: int
    submodel: int
    search: int
    divergence: int
    dense: int
    evaluation: int


@dataclass(frozen=True)
class Plan:
    """The work ahead.

    Attributes:
        targets: the fraction of what the budget counts that has left after each round; the last one is the run's.
        prune_tokens: tokens of one round's forward passes, those of its repair among them.
        submodel_tokens: of these, those that sub-models and the search take at most.
        dense_tokens: tokens of the dense model's side of all comparisons.
        divergence_tokens: tokens of those that tell how far the model is from the dense one after a round.
        forward_tokens: tokens of all forward passes of the run, latency timing aside.
    """

    targets: tuple[float, ...]
    prune_tokens: int
    submodel_tokens: int
    dense_tokens: int
    divergence_tokens: int
    forward_tokens: int


def round_targets(config: RunConfig, fraction: float) -> tuple[float, ...]:
    """Rounds of `round_fraction` until a fraction has left, the last one clipped; or `min_rounds` equal ones."""
    num_rounds, step = math.ceil(fraction / config.round_fraction - 1e-9), config.round_fraction
    if num_rounds < config.min_rounds:
        num_rounds, step = config.min_rounds, fraction / config.min_rounds
    return (*((i + 1) * step for i in range(num_rounds - 1)), fraction)


def most_rounds(config: RunConfig) -> int:
    """How many rounds there are at most; what a target of so many parameters, say, comes to, only the model tells."""
    fraction = config.sparsity
    if config.target is not None:
        amount = TARGETS[config.target].quantity.parse(getattr(config, config.target))
        fraction = 1 - amount.value if amount.relative else 1.0
    assert fraction is not None
    return len(round_targets(config, fraction))


def make_plan(config: RunConfig, fraction: float, tokens: TokenBudget) -> Plan:
    """The plan of a run that removes a fraction of what its budget counts, over this much data."""
    targets = round_targets(config, fraction)
    submodel_tokens = tokens.submodel + tokens.search
    prune_tokens = tokens.statistics + submodel_tokens
    between = (len(targets) - 1) * tokens.evaluation if config.eval_rounds else 0
    rounds = len(targets) * (prune_tokens + tokens.divergence)
    forward_tokens = rounds + between + tokens.dense + 2 * tokens.evaluation
    return Plan(targets, prune_tokens, submodel_tokens, tokens.dense, tokens.divergence, forward_tokens)


def answers_measured(config: RunConfig) -> int:
    """How many answers of the regression a round measures at most, on text of the search's own.

    Where sub-layers or layers compete with single units, those with and without them; else where a search starts.
    """
    single = set(config.units) - WHOLE_KINDS
    return 2 if 0 < len(single) < len(config.units) else min(1, config.search)


def search_tokens(config: RunConfig, data: CalibrationData) -> int:
    """Most tokens of the search in one round."""
    few = data.windows_NT[: len(data.windows_NT) // FIRST_HEAT].size
    of_all = answers_measured(config) + config.search * FINALISTS
    return of_all * data.num_tokens + config.search * OFFSPRING * few
