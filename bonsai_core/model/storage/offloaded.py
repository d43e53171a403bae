"""Weights that accelerate loads for a module's forward pass and then removes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.tied import under_both_names
from bonsai_core.upstream import (
    execution_device,
    is_offloaded,
    offload_index,
    offloaded_file,
    offloaded_weights,
    set_offloaded_weights,
)


def fetched(module: nn.Module, name: str) -> Tensor:
    """A weight as the module has it while it runs, where it runs."""
    if is_offloaded(module):
        return offloaded_weights(module)[name].to(execution_device(module))
    weight: Tensor = getattr(module, name)
    return weight.detach()


def own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that accelerate puts into an offloaded module itself, by all of their names in it."""
    return module.named_parameters(recurse=False, remove_duplicate=False)


def stored(weights: Mapping[str, Tensor], name: str) -> Tensor:
    """One of `offloaded_weights` where it is: on the CPU, or mapped from a file, of which nothing is read yet.

    Raises:
        BonsaiError: its file cannot be read.
    """
    place = offloaded_file(weights, name)
    try:
        if place is None:
            return weights[name]
        with safe_open(place[0], "pt") as opened:
            tensor: Tensor = opened.get_tensor(place[1])
            return tensor
    except (OSError, SafetensorError) as error:
        at = "that were offloaded" if place is None else f"in {place[0]}"
        raise BonsaiError(f"The weights {at} cannot be read: {error}") from error


def name_tied_weights(model: Any) -> None:
    """Have tied weights found on disk by either of their names: accelerate (1.15) knows the one that files have."""
    for module in model.modules():
        if is_offloaded(module):
            under_both_names(model, offload_index(module))


@contextmanager
def changed(module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a module's weight for a while, offloaded ones too; no trace stays.

    Around or inside of the time for which `in_turn` has the weight in place, not across its beginning or end.

    Args:
        name: of the weight.
        change: from the weight that it has to the one that it gets.
    """
    before: nn.Parameter = getattr(module, name)
    source = offloaded_weights(module) if is_offloaded(module) else None
    setattr(module, name, nn.Parameter(change(before.detach()), before.requires_grad))
    if source is not None:
        set_offloaded_weights(module, _Changed(source, name, change))
    try:
        yield
    finally:
        setattr(module, name, before)
        if source is not None:
            set_offloaded_weights(module, source)


def is_changed(module: nn.Module) -> bool:
    """Whether an offloaded module has a weight that `changed` replaces."""
    return isinstance(offloaded_weights(module), _Changed)


class _Changed(Mapping[str, Tensor]):
    """Weights by name, of which one is changed when it is fetched."""

    def __init__(self, source: Mapping[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> None:
        self._source = source
        self._name = name
        self._change = change

    def __getitem__(self, name: str) -> Tensor:
        weight = self._source[name]
        return self._change(weight) if name == self._name else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)
