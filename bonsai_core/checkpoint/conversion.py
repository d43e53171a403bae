"""Tensors as transformers keeps them on disk: under other names, and those of a mixture's experts one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Tensors on disk that one or several of the model are made of.

    Attributes:
        converter: what transformers makes them with; None where there is one, which is taken as it is.
        pieces: their names by the converter's patterns, in order.
    """

    converter: WeightConverter | None = None
    pieces: dict[str, list[str]] = field(default_factory=dict)

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
    """What each tensor of a model is made of when it is loaded, by its name; see `from_pretrained`.

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
        if target not in present and name in present:
            target, pattern = name, None
        if pattern is None:
            found[target] = Origin(pieces={"": [name]})
            continue
        converter = by_pattern[pattern]
        origin = found.setdefault(target, Origin(converter))
        origin.pieces.setdefault(pattern, []).append(name)
        first, *others = converter.target_patterns
        found.update({target.replace(first, other): origin for other in others})
    return found


def stored_together(model: Any) -> list[list[str]]:
    """Names of a model's tensors, those side by side that become one tensor on disk."""
    mapping = get_model_conversion_mapping(model, add_legacy=False)
    reverse = [change.reverse_transform() for change in reversed(mapping) if isinstance(change, WeightConverter)]
    saved = model.state_dict()
    groups: dict[str, list[str]] = {}
    for name in (*(name for name, _ in model.named_parameters()), *(name for name, _ in model.named_buffers())):
        if name in saved:
            groups.setdefault(rename_source_key(name, [], reverse)[0], []).append(name)
    return list(groups.values())


def as_stored(model: Any, tensors: Mapping[str, Tensor]) -> Sequence[tuple[str, Tensor]]:
    """What `save_pretrained` writes for some of a model's tensors that are stored together."""
    return list(revert_weight_conversion(model, dict(tensors)).items())
