"""What the events of a journal hold, so that a damaged or foreign one is refused before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from bonsai_core.rundir.report_schema import BudgetOutcome, JsonObject, Phases, Seconds, Value, first_fault, json_object

Described = dict[str, Any]
_SiteTimes: Any = json_object(counts=list[NonNegativeInt], seconds=list[FiniteFloat], step=PositiveInt)
_LayerTimes: Any = json_object(seconds=Seconds, sites=dict[str, _SiteTimes])
_PlannedStage: Any = json_object(
    stage=str, round=NonNegativeInt, work=Seconds, tokens=NonNegativeInt, seconds=Seconds, last_step=str
)
PAYLOADS: Mapping[str, type[JsonObject]] = {
    "run": json_object(
        config=Described,
        calibration=Described,
        evaluation=Described,
        model=str,
        guard=(Described, {}),
        measured_on=(Described, {}),
        versions=dict[str, str],
    ),
    "adapt": json_object(
        config=Described,
        text=Described,
        evaluation=Described,
        teacher=Described,
        passes=Described,
        versions=dict[str, str],
    ),
    r"evaluate/(dense|pruned)|round-\d+/evaluate": json_object(
        perplexity=Value, windows=NonNegativeInt, sequence_length=NonNegativeInt
    ),
    r"evaluate/(teacher|adapted|\d+)": json_object(perplexity=Value),
    r"round-\d+/(prior|repair)|(model|teacher)-weights": json_object(sha256=str),
    r"round-\d+/(submodels-\d+|search-.+)": json_object(values=list[Value]),
    r"round-\d+/selection": json_object(
        sha256=str,
        sparsity=FiniteFloat,
        units_removed=NonNegativeInt,
        kendall_tau=Value,
        submodels=NonNegativeInt,
        dropped_submodels=NonNegativeInt,
        repaired_submodels=(bool, False),
    ),
    r"round-\d+/divergence": json_object(held_out=(Value, None), guard=(Value, None), measured=(Value, None)),
    "tune": json_object(tokens=PositiveInt, batch_tokens=PositiveInt),
    "stages": json_object(stages=list[_PlannedStage]),
    "peak": json_object(bytes=NonNegativeInt),
    "save": json_object(bytes=NonNegativeInt, parameters=NonNegativeInt),
    "trained": json_object(parameters=NonNegativeInt),
    "latency": json_object(
        skipped=(str, ""),
        dense_s=(FiniteFloat, 0.0),
        pruned_s=(FiniteFloat, 0.0),
        tokens=(NonNegativeInt, 0),
        phases=(Phases | None, None),
    ),
    "prices": json_object(
        dense_s=Seconds,
        scale=FiniteFloat,
        layers=dict[str, _LayerTimes],
        elapsed_s=Seconds,
    ),
    r"round-\d+/latency": json_object(target=FiniteFloat, reached=(FiniteFloat, 0.0), skipped=(str, "")),
    "budget": BudgetOutcome,
    "loss": json_object(loss=Value),
    "verify": json_object(skipped=(str, ""), loss=(Value, None), loaded=(dict[str, Value], {})),
    r"step-\d+": json_object(
        loss=FiniteFloat, lm=FiniteFloat, kl=FiniteFloat, hidden=FiniteFloat, learning_rate=FiniteFloat
    ),
}
"""By pattern of an event's key."""


def fault_of(key: str, payload: Any) -> str | None:
    """What is wrong with an event; None if it is valid, or its key is unknown."""
    schema = next((schema for pattern, schema in PAYLOADS.items() if re.fullmatch(pattern, key)), JsonObject)
    try:
        schema.model_validate(payload)
    except ValidationError as error:
        return first_fault(error, "it")
    return None
