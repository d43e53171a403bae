"""What the events of a journal hold, so that a damaged or foreign one is refused before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, FiniteFloat, NonNegativeInt, ValidationError

from bonsai_core.rundir.reports import Part, Value, first_fault

Described = dict[str, Any]


class _Run(Part):
    config: Described
    calibration: Described
    evaluation: Described
    model: str
    measured_on: Described = Field(default_factory=dict)
    versions: dict[str, str]


class _Adapt(Part):
    config: Described
    text: Described
    evaluation: Described
    teacher: Described
    passes: Described
    versions: dict[str, str]


class _Digest(Part):
    sha256: str


class _Perplexity(Part):
    perplexity: Value


class _RunPerplexity(_Perplexity):
    windows: NonNegativeInt
    sequence_length: NonNegativeInt


class _Repaired(Part):
    repaired: bool


class _Measured(Part):
    value: Value


class _Selection(_Digest):
    sparsity: FiniteFloat
    units_removed: NonNegativeInt
    kendall_tau: Value
    submodels: NonNegativeInt
    dropped_submodels: NonNegativeInt
    repaired_submodels: bool = False


class _Divergence(Part):
    held_out: Value
    measured: Value = None


class _Bytes(Part):
    bytes: NonNegativeInt


class _Saved(_Bytes):
    parameters: NonNegativeInt


class _Trained(Part):
    parameters: NonNegativeInt


class _Latency(Part):
    skipped: str = ""
    dense_s: FiniteFloat = 0.0
    pruned_s: FiniteFloat = 0.0
    tokens: NonNegativeInt = 0


class _Loss(Part):
    loss: Value


class _Verified(Part):
    skipped: str = ""
    loss: Value = None
    loaded: dict[str, Value] = Field(default_factory=dict)


class _Step(Part):
    loss: FiniteFloat
    lm: FiniteFloat
    kl: FiniteFloat
    hidden: FiniteFloat
    learning_rate: FiniteFloat


KINDS: Mapping[str, type[Part]] = {
    "run": _Run,
    "adapt": _Adapt,
    r"evaluate/(dense|pruned)|round-\d+/evaluate": _RunPerplexity,
    r"evaluate/(teacher|adapted|\d+)": _Perplexity,
    r"round-\d+/(prior|repair)|(model|teacher)-weights": _Digest,
    r"round-\d+/submodel-repairs": _Repaired,
    r"round-\d+/(submodel-\d+|search-.+)": _Measured,
    r"round-\d+/selection": _Selection,
    r"round-\d+/divergence": _Divergence,
    "peak": _Bytes,
    "save": _Saved,
    "trained": _Trained,
    "latency": _Latency,
    "loss": _Loss,
    "verify": _Verified,
    r"step-\d+": _Step,
}
"""By pattern of an event's key."""


def fault_of(key: str, payload: Any) -> str | None:
    """What is wrong with an event; None if nothing is, or nothing is known of events of this key."""
    schema = next((schema for pattern, schema in KINDS.items() if re.fullmatch(pattern, key)), Part)
    try:
        schema.model_validate(payload)
    except ValidationError as error:
        return first_fault(error, "it")
    return None
