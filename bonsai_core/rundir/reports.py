"""What a report.json must hold to be shown, and reading one that may be a stranger's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from bonsai_core.errors import DamagedError

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Value = FiniteFloat | None
"""A number that was measured; None where it was not finite."""


class Part(BaseModel):
    """Of what we wrote ourselves: types are as they were, and what later versions add is let through."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Text(Part):
    name: str


class _Perplexity(Part):
    dense: Value
    pruned: Value
    sequence_length: Count
    windows: Count
    text: _Text


class _BeforeAndAfter(Part):
    dense: Count
    pruned: Count


class _Sparsity(Part):
    decoder: FiniteFloat
    whole_model: FiniteFloat


class _Divergence(Part):
    held_out: Value = None
    measured: Value = None


class _Round(Part):
    sparsity: FiniteFloat
    units_removed: Count
    submodels: Count
    dropped_submodels: Count
    kendall_tau: Value
    repaired_submodels: bool = False
    divergence: _Divergence = _Divergence()
    perplexity: Value = None


class _Kept(Part):
    kept: Count
    dense: Count

    @model_validator(mode="after")
    def _no_more_than_there_were(self) -> _Kept:
        if self.kept > self.dense:
            raise ValueError("more units are kept than there were")
        return self


class _Timed(Part):
    dense_s: Annotated[FiniteFloat, Field(gt=0)]
    pruned_s: Annotated[FiniteFloat, Field(gt=0)]
    tokens: Count


class _NotDone(Part):
    model_config = ConfigDict(extra="forbid")

    skipped: str


class _Verified(Part):
    loss: Value
    loaded: dict[str, Value]


class _Memory(Part):
    peak_bytes: Count


class _RunConfig(Part):
    model: str
    eval_rounds: bool


class RunReport(Part):
    """Of a run."""

    config: _RunConfig
    perplexity: _Perplexity
    parameters: _BeforeAndAfter
    sparsity: _Sparsity
    weight_bytes: _BeforeAndAfter
    rounds: list[_Round]
    layers: list[dict[str, _Kept]]
    latency: _Timed | _NotDone | None
    verified: _Verified | _NotDone
    memory: _Memory
    seconds: dict[str, Seconds]


class _Evaluation(_Text):
    windows: Count
    sequence_length: Count


class _Recovery(Part):
    teacher: Value
    before: Value
    after: Value


class _Losses(Part):
    loss: FiniteFloat
    lm: FiniteFloat
    kl: FiniteFloat
    hidden: FiniteFloat


class _Parameters(Part):
    all: Count
    trained: Count


class AdaptReport(Part):
    """Of an adaptation."""

    evaluation: _Evaluation
    perplexity: _Recovery
    losses: Annotated[list[_Losses], Field(min_length=1)]
    steps: Count
    tokens: Count
    epochs: FiniteFloat
    parameters: _Parameters
    verified: _Verified | _NotDone
    memory: _Memory
    seconds: dict[str, Seconds]


def read_report(path: Path, schema: type[BaseModel]) -> Mapping[str, Any]:
    """The contents of a report.json, as written.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it is damaged; the message says how to write it again.
    """
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema.model_validate(found)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        raise _damaged(path, first_fault(error, "the whole")) from None
    except RecursionError:
        raise _damaged(path, "it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    return found


def first_fault(error: ValidationError, whole: str) -> str:
    """Where a part is not as it should be, and how; `whole` is what to call all of it."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(f"{path} is damaged ({why[:300]}); write it again with: bonsai resume {path.parent}")
