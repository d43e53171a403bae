"""What the events of a journal hold, so that a damaged or foreign one is refused before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, ValidationError

from bonsai_core.rundir.reports import Value

Described = dict[str, Any]


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Run(_Payload):
    config: Described
    calibration: Described
    evaluation: Described
    model: str
    measured_on: Described = {}
    versions: dict[str, str]


class _Adapt(_Payload):
    config: Described
    text: Described
    evaluation: Described
    teacher: Described
    passes: Described
    versions: dict[str, str]


class _Digest(_Payload):
    sha256: str


class _Perplexity(_Payload):
    perplexity: Value


class _RunPerplexity(_Perplexity):
    windows: NonNegativeInt
    sequence_length: NonNegativeInt


class _Repaired(_Payload):
    repaired: bool


class _Measured(_Payload):
    value: Value


class _Selection(_Digest):
    sparsity: FiniteFloat
    units_removed: NonNegativeInt
    kendall_tau: Value
    submodels: NonNegativeInt
    dropped_submodels: NonNegativeInt
    repaired_submodels: bool = False


class _Divergence(_Payload):
    held_out: Value
    measured: Value = None


class _Bytes(_Payload):
    bytes: NonNegativeInt


class _Saved(_Bytes):
    parameters: NonNegativeInt


class _Trained(_Payload):
    parameters: NonNegativeInt


class _Latency(_Payload):
    skipped: str = ""
    dense_s: FiniteFloat = 0.0
    pruned_s: FiniteFloat = 0.0
    tokens: NonNegativeInt = 0


class _Loss(_Payload):
    loss: Value


class _Verified(_Payload):
    skipped: str = ""
    loss: Value = None
    loaded: dict[str, Value] = {}


class _Step(_Payload):
    loss: FiniteFloat
    lm: FiniteFloat
    kl: FiniteFloat
    hidden: FiniteFloat
    learning_rate: FiniteFloat


KINDS: Mapping[str, type[_Payload]] = {
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
    schema = next((schema for pattern, schema in KINDS.items() if re.fullmatch(pattern, key)), _Payload)
    try:
        schema.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return None
