"""A Python function as metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from bonsai_core.config import PluginChoice
from bonsai_core.contracts import Metric, Probe

ModelFunction = Callable[[Any, Any], float]
"""`function(model, tokenizer)`: a number that is higher for a better sub-model."""

PREFIX = "python:"


class FunctionMetric(Metric):
    """The value that a Python function gives the sub-model; higher is better."""

    name: ClassVar[str] = "python"
    reads: ClassVar[Literal["text", "choices", "nothing"]] = "nothing"
    function: ModelFunction

    def measure(self, probe: Probe) -> float:
        return float(self.function(probe.model, probe.tokenizer))

    def utility(self, value: float) -> float:
        return value


def choice_of(function: ModelFunction) -> PluginChoice:
    """What the configuration says of a function: its name, which a resumed run is compared with."""
    where = getattr(function, "__module__", "?")
    return PluginChoice(name=f"{PREFIX}{where}.{getattr(function, '__qualname__', type(function).__qualname__)}")
