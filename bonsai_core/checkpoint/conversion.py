"""Tensors as transformers keeps them on disk: under other names, and those of a mixture's experts one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bonsai_core.upstream import converted, stored_names


@dataclass
class StoredTensors:
    """Tensors on disk that one of the model is made of.

    Attributes:
        converter: what transformers makes them with; None where there is one, which is taken as it is.
        pieces: their names by the converter's patterns, in order.
    """

    converter: Any = None
    pieces: dict[str, list[str]] = field(default_factory=dict)

    @property
    def divided(self) -> bool:
        """Whether several tensors of the model are made of them."""
        return self.converter is not None and len(self.converter.target_patterns) > 1

    def names(self) -> list[str]:
        """Their names."""
        return [name for names in self.pieces.values() for name in names]

    def tensor(self, target: str, model: Any, load: Callable[[str], Tensor]) -> Tensor:
        """The tensor of a name in the model.

        Args:
            load: gives a tensor on disk by its name.
        """
        if self.converter is None:
            return load(*self.names())
        return converted(self.converter, target, self.pieces, model, load)


def stored_tensors(model: Any, on_disk: Iterable[str]) -> dict[str, StoredTensors]:
    """What each tensor of a model is made of when it is loaded, by its name.

    Args:
        model: in transformers' own layout; it may be on the meta device.
        on_disk: names of the tensors in its files.
    """
    found: dict[str, StoredTensors] = {}
    for name, target, converter, pattern in stored_names(model, on_disk):
        if converter is None:
            found[target] = StoredTensors(pieces={"": [name]})
            continue
        first, *others = converter.target_patterns
        for made in (target, *(target.replace(first, other) for other in others)):
            found.setdefault(made, StoredTensors(converter)).pieces.setdefault(pattern, []).append(name)
    return found
