"""Weights that accelerate puts in place for a module's forward pass and takes away again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accelerate.utils import has_offloaded_params
from torch import Tensor, nn

from bonsai_core.model.storage.tied import under_both_names


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module has its own weights only while it runs."""
    offloaded: bool = has_offloaded_params(module)
    return offloaded


def fetched(module: Any, name: str) -> Tensor:
    """A weight as the module has it while it runs, where it runs."""
    weight: Tensor = getattr(module, name).detach()
    if is_offloaded(module):
        weight = module._hf_hook.weights_map[name].to(module._hf_hook.execution_device)
    return weight


def name_tied_weights(model: Any) -> None:
    """Have tied weights found on disk by either of their names: accelerate (1.15) knows the one that files have."""
    offloaded: list[Any] = [module for module in model.modules() if is_offloaded(module)]
    for module in offloaded:
        under_both_names(model, module._hf_hook.weights_map.dataset.index)


@contextmanager
def changed(module: Any, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A module with another weight, where it has it only while it runs too; no trace stays.

    Args:
        name: of the weight.
        change: from the weight that it has to the one that it gets.
    """
    before, hook = getattr(module, name), module._hf_hook if is_offloaded(module) else None
    setattr(module, name, nn.Parameter(change(before.detach()), before.requires_grad))
    if hook is not None:
        source, hook.weights_map = hook.weights_map, _Changed(hook.weights_map, name, change)
    try:
        yield
    finally:
        setattr(module, name, before)
        if hook is not None:
            hook.weights_map = source


class _Changed(Mapping[str, Tensor]):
    """Weights by name, of which one is changed when it is fetched."""

    def __init__(self, source: Mapping[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> None:
        self._source = source
        self._name = name
        self._change = change

    def __getitem__(self, name: str) -> Tensor:
        found = self._source[name]
        return self._change(found) if name == self._name else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)
