"""Tensors as transformers stores them: under other names, and those of a mixture's experts one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bonsai_core.upstream import converted, stored_names


@dataclass
class StoredTensors:
    """Tensors on disk that one tensor of the model is made of.

    Attributes:
        converter: what transformers makes it with; None where one tensor is taken as it is.
        pieces: their names by the converter's patterns, in order.
    """

    converter: Any = None
    pieces: dict[str, list[str]] = field(default_factory=dict)

    @property
    def divided(self) -> bool:
        """Whether other tensors of the model are made of them too."""
        return self.converter is not None and len(self.converter.target_patterns) > 1

    def names(self) -> list[str]:
        """Names of the tensors on disk."""
        return [name for names in self.pieces.values() for name in names]

    def tensor(self, target: str, model: Any, load: Callable[[str], Tensor]) -> Tensor:
        """The model's tensor `target`; `load` reads a tensor on disk by its name."""
        if self.converter is None:
            return load(*self.names())
        return converted(self.converter, target, self.pieces, model, load)


def stored_tensors(model: Any, on_disk: Iterable[str]) -> dict[str, StoredTensors]:
    """What each tensor of a model, by its name, is made of when it is loaded.

    Args:
        model: in transformers' own layout; it may be on the meta device.
        on_disk: names of the tensors in its files.
    """
    by_target: dict[str, StoredTensors] = {}
    for name, target, converter, pattern in stored_names(model, on_disk):
        if converter is None:
            by_target[target] = StoredTensors(pieces={"": [name]})
            continue
        first, *others = converter.target_patterns
        for made in (target, *(target.replace(first, other) for other in others)):
            by_target.setdefault(made, StoredTensors(converter)).pieces.setdefault(pattern, []).append(name)
    return by_target
