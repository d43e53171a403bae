"""What a mixture of experts is to the engine, whatever its units are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite
from bonsai_core.model.storage.memory import release


class Mixture(ABC):
    """The experts of one decoder layer, of which units can leave.

    Args:
        layer: the decoder layer.
        declared: where the experts are.
        load: gives a parameter by its name in the layer, wherever it lies.

    Attributes:
        module: the experts.
        parameters: names, in the layer, of the parameters that lose something with every unit.
    """

    parameters: tuple[str, ...]

    def __init__(self, layer: nn.Module, declared: ExpertsSite, load: Callable[[str], Tensor]) -> None:
        self.module: Any = layer.get_submodule(declared.module)
        self._layer = layer
        self._declared = declared
        self._load = load

    @abstractmethod
    def without(self, stay: Tensor) -> AbstractContextManager[None]:
        """The layer as it is with only some of its units; no trace stays.

        Args:
            stay: numbers of those units that stay, int64.
        """

    @abstractmethod
    def cut(self, parameter: str, whole: Tensor, stay: Tensor) -> Tensor:
        """What the units that stay have of one of the `parameters`."""

    @abstractmethod
    def weight(self) -> Tensor:
        """How strong each unit's output is, float32 [hidden, units, 1].

        Taken for a site's output projection, with `use` for its input, a unit counts as one channel.
        """

    @abstractmethod
    def use(self, args: tuple[Any, ...]) -> Tensor:
        """From what the experts are called with: how much of each unit every token gets, [tokens, units]."""

    def slice(self, stay: Tensor) -> None:
        """Remove all other units, in place, one parameter at a time."""
        for path in self.parameters:
            parent, _, name = path.rpartition(".")
            whole = self._layer.get_parameter(path)
            small = nn.Parameter(self.cut(path, whole.detach(), stay), whole.requires_grad)
            setattr(self._layer.get_submodule(parent), name, small)
            release(whole.data)
