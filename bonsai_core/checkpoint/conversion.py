"""Tensors as transformers keeps them on disk: under other names, and those of a mixture's experts one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)


@dataclass
class Origin:
    """Tensors on disk that one of the model is made of.

    Attributes:
        converter: what transformers makes them with; None where there is one, which is taken as it is.
        pieces: their names by the converter's patterns, in order.
    """

    converter: WeightConverter | None = None
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
        converter = deepcopy(self.converter)  # it gathers what it is given
        for pattern, names in self.pieces.items():
            for name in names:
                converter.add_tensor(target, name, pattern, partial(load, name))
        made = converter.convert(target, model=model, config=model.config)[target]
        tensor: Tensor = made[0] if isinstance(made, list) else made
        return tensor


def origins(model: Any, on_disk: Iterable[str]) -> dict[str, Origin]:
    """What each tensor of a model is made of when it is loaded, by its name.

    Args:
        model: in transformers' own layout; it may be on the meta device.
        on_disk: names of the tensors in its files.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [change for change in mapping if isinstance(change, WeightRenaming)]
    converters = [change for change in mapping if isinstance(change, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    present = model.state_dict()
    found: dict[str, Origin] = {}
    for name in sorted(on_disk, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, present)
        if pattern is None:
            found[target] = Origin(pieces={"": [name]})
            continue
        first, *others = by_pattern[pattern].target_patterns
        for made in (target, *(target.replace(first, other) for other in others)):
            found.setdefault(made, Origin(by_pattern[pattern])).pieces.setdefault(pattern, []).append(name)
    return found


def as_stored(model: Any, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """What `save_pretrained` writes for a tensor of a model that `origins` knows all tensors of."""
    return list(revert_weight_conversion(model, {name: tensor}).items())
