"""What a report.json must hold to be shown, and reading one that may be a stranger's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, create_model, model_validator

from bonsai_core.errors import DamagedError

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Value = FiniteFloat | None
"""A number that was measured; None where it was not finite."""


class JsonObject(BaseModel):
    """Of what we wrote ourselves: types are as they were, and what later versions add is let through."""

    model_config = ConfigDict(strict=True, extra="allow")


def json_object(**fields: Any) -> type[JsonObject]:
    """The schema of an object with these fields: each a type, or a type and a default."""
    pairs: dict[str, Any] = {
        name: field if isinstance(field, tuple) else (field, ...) for name, field in fields.items()
    }
    return create_model("JsonObject", __base__=JsonObject, **pairs)


class _NotDone(JsonObject):
    model_config = ConfigDict(extra="forbid")

    skipped: str


class _Divergence(JsonObject):
    held_out: Value = None
    guard: Value = None
    measured: Value = None


class _Round(JsonObject):
    sparsity: Fraction
    units_removed: Count
    submodels: Count
    dropped_submodels: Count
    kendall_tau: Value
    repaired_submodels: bool = False
    divergence: _Divergence = _Divergence()
    perplexity: Value = None


class _Kept(JsonObject):
    kept: Count
    dense: Count

    @model_validator(mode="after")
    def _no_more_than_there_were(self) -> _Kept:
        if self.kept > self.dense:
            raise ValueError("more units are kept than there were")
        return self


class _Losses(JsonObject):
    loss: FiniteFloat
    lm: FiniteFloat
    kl: FiniteFloat
    hidden: FiniteFloat


class _Point(JsonObject):
    tokens: Count
    perplexity: Value


class BudgetOutcome(JsonObject):
    """What has become of a budget, see `bonsai_core.engine.reached.outcome`."""

    of: str
    option: str
    dense: Count
    target: Count
    predicted: Count
    measured: Count | None


class _Part(JsonObject):
    name: str
    share: FiniteFloat


class _Calibration(JsonObject):
    """The calibration text; reports of earlier versions do not say how much of it was drawn."""

    name: str
    characters: Count
    parts: list[_Part] | None = None
    windows: Count | None = None
    windows_wanted: Count = 0
    sequence_length: Count = 0
    kinds: list[str] = Field(default_factory=list)
    compressed_bytes_per_character: Value = None


_BEFORE_AND_AFTER = json_object(dense=Count, pruned=Count)
_POSITIVE = Annotated[FiniteFloat, Field(gt=0)]
_PHASE = json_object(
    dense_s=_POSITIVE, pruned_s=_POSITIVE, speedup=json_object(median=_POSITIVE, low=_POSITIVE, high=_POSITIVE)
)
Phases = json_object(prefill=_PHASE, decode=_PHASE)
"""How fast the dense and the pruned model are, see `bonsai_core.engine.checkpoint.latencies`."""
_COMMON = {
    "verified": json_object(loss=Value, loaded=dict[str, Value]) | _NotDone,
    "memory": json_object(peak_bytes=Count),
    "seconds": dict[str, Seconds],
}
RUN_REPORT = json_object(
    config=json_object(model=str, eval_rounds=bool),
    perplexity=json_object(dense=Value, pruned=Value, sequence_length=Count, windows=Count, text=json_object(name=str)),
    calibration=(_Calibration | None, None),
    parameters=_BEFORE_AND_AFTER,
    sparsity=json_object(decoder=Fraction, whole_model=Fraction),
    weight_bytes=_BEFORE_AND_AFTER,
    budget=(BudgetOutcome | None, None),
    rounds=list[_Round],
    layers=list[dict[str, _Kept]],
    latency=json_object(dense_s=_POSITIVE, pruned_s=_POSITIVE, tokens=Count, phases=(Phases | None, None))
    | _NotDone
    | None,
    **_COMMON,
)
ADAPT_REPORT = json_object(
    evaluation=json_object(name=str, windows=Count, sequence_length=Count),
    perplexity=json_object(teacher=Value, before=Value, after=Value),
    losses=Annotated[list[_Losses], Field(min_length=1)],
    curve=(list[_Point], []),
    steps=Count,
    tokens=Count,
    epochs=FiniteFloat,
    parameters=json_object(all=Count, trained=Count),
    **_COMMON,
)


def read_report(path: Path, schema: type[BaseModel]) -> Mapping[str, Any]:
    """The contents of a report.json, as written.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is damaged; the message says how to write it again.
    """
    try:
        report: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema.model_validate(report)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        raise _damaged(path, first_fault(error, "the whole")) from None
    except RecursionError:
        raise _damaged(path, "it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    return report


def first_fault(error: ValidationError, whole: str) -> str:
    """Which field is not as it should be, and how; `whole` is what to call all of it."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path} is damaged ({why[:300]}); write it again with: bonsai resume {path.parent}")
