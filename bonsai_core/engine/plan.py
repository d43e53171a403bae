"""What a run will do, from its configuration and the unit table alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bonsai_core.config import RunConfig


@dataclass(frozen=True)
class Plan:
    """The work ahead.

    Attributes:
        targets: sparsity after each round; the last one is the run's.
        round_tokens: tokens of one round's forward passes.
        forward_tokens: tokens of all forward passes of the run, latency timing aside.
    """

    targets: tuple[float, ...]
    round_tokens: int
    forward_tokens: int


def make_plan(
    config: RunConfig,
    *,
    calibration_tokens: int,
    evaluation_tokens: int,
    prior_tokens: int,
    needs_measurements: bool,
    needs_dense: bool,
) -> Plan:
    """Rounds of `round_fraction` until the sparsity is reached, the last one clipped."""
    num_rounds = max(1, math.ceil(config.sparsity / config.round_fraction - 1e-9))
    targets = (*((i + 1) * config.round_fraction for i in range(num_rounds - 1)), config.sparsity)
    round_tokens = prior_tokens + needs_measurements * config.submodels * calibration_tokens
    reference = calibration_tokens if needs_measurements and needs_dense else 0
    return Plan(targets, round_tokens, num_rounds * round_tokens + reference + 2 * evaluation_tokens)
