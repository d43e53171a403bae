"""Runs the laws of an installed plugin without pytest: what `bonsai plugins --check` does."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bonsai_core.contracts import (
    ChoiceMetric,
    Compensator,
    Component,
    Estimator,
    Exporter,
    Prior,
    Sampler,
    TokenMetric,
    Tracker,
)
from bonsai_core.errors import BonsaiError
from bonsai_core.settings.schema import describe_faults, where
from bonsai_core.testing.compensator import CompensatorContract
from bonsai_core.testing.component import ComponentContract
from bonsai_core.testing.estimator import EstimatorContract
from bonsai_core.testing.exporter import ExporterContract
from bonsai_core.testing.metric import ChoiceMetricContract, TokenMetricContract
from bonsai_core.testing.prior import PriorContract
from bonsai_core.testing.sampler import SamplerContract
from bonsai_core.testing.tracker import TrackerContract

CONTRACTS: Sequence[tuple[type, type[ComponentContract[Any]]]] = (
    (Prior, PriorContract),
    (Sampler, SamplerContract),
    (TokenMetric, TokenMetricContract),
    (ChoiceMetric, ChoiceMetricContract),
    (Estimator, EstimatorContract),
    (Compensator, CompensatorContract),
    (Exporter, ExporterContract),
    (Tracker, TrackerContract),
    (Component, ComponentContract),
)
"""The contract of each kind of component; the last one holds for what has none of its own."""


@dataclass(frozen=True)
class Outcome:
    """What became of one law.

    Attributes:
        law: in words.
        failure: what does not hold; None if it holds.
    """

    law: str
    failure: str | None


def contract_of(component: type[Component]) -> type[ComponentContract[Any]]:
    """The contract that a component has to keep."""
    return next(contract for base, contract in CONTRACTS if issubclass(component, base))


def laws_of(contract: type) -> list[str]:
    """The names of a contract's laws, in the order in which they are written, the general ones first."""
    written = [name for cls in reversed(contract.__mro__) for name in vars(cls) if name.startswith("test_")]
    return list(dict.fromkeys(written))


def check(contract: type, module: str, **under_test: Any) -> Iterator[Outcome]:
    """Run all laws of a contract, one after the other.

    Args:
        module: of the plugin, or any of its package: where to point at when something is raised.
        under_test: what a test would define in a class that inherits the contract, such as `make`.

    Raises:
        BonsaiError: Python runs without assertions, so that no law can fail.
    """
    if not __debug__:
        raise BonsaiError("Laws are assertions, and Python skips them here: start it without -O and PYTHONOPTIMIZE.")
    case = type(f"Checked{contract.__name__}", (contract,), under_test)()
    for name in laws_of(contract):
        law = name.removeprefix("test_").replace("_", " ")
        try:
            getattr(case, name)()
        except AssertionError as error:
            yield Outcome(law, str(error) or f"this does not hold: {_line(error, module)}")
        except Exception as error:  # a stranger's code may raise anything, and then the law does not hold
            yield Outcome(law, f"{_what(error)} (at {_line(error, module)})")
        else:
            yield Outcome(law, None)


def _what(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"raised {type(error).__name__}: {error}"
    row = error.errors()[0]
    if row["type"] == "frozen_instance":
        return f"it set self.{where(row)}; components keep no state"
    return f"{error.title} refuses: {describe_faults(error, lambda row, words: f'{where(row)}: {words}')}"


def _line(error: Exception, module: str) -> str:
    """The innermost line of the plugin that an exception went through, or else of Bonsai."""
    tops = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    innermost = {top: place for place, top in enumerate(tops)}
    place = innermost.get(module.partition(".")[0], innermost["bonsai_core"])  # `check` itself is of Bonsai
    row = traceback.extract_tb(error.__traceback__)[place]
    return f"{Path(row.filename).name}:{row.lineno}: {row.line}"
