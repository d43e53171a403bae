"""Experts of an offloaded mixture, fetched when a token is first sent to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.model.storage.incoming import Fetches
from bonsai_core.model.storage.memory import read_in, staged
from bonsai_core.model.storage.offloaded import is_changed, own_weights, stored
from bonsai_core.upstream import execution_device, is_experts, offloaded_weights

EXPERTS_DIMENSIONS = 3


def names_by_expert(module: nn.Module) -> list[str]:
    """The weights of an offloaded module that are fetched by expert: [experts, ...] of a mixture, as they are stored.

    What `changed` makes of them is made of all experts, so then there are none.
    """
    if not is_experts(module) or is_changed(module):
        return []
    return [name for name, weight in own_weights(module) if weight.ndim == EXPERTS_DIMENSIONS]


@contextmanager
def fetched_by_expert(experts: nn.Module, names: list[str], fetches: Fetches) -> Iterator[None]:
    """Before each call of the module, the weights of the experts that its tokens are sent to are fetched, once each.

    Where the weights are mapped or held on the right device and in the right type, the module has them as they are, and
    those of the experts are read in. Otherwise it has room for all experts, in which the others are zeros.

    Args:
        experts: an offloaded module.
        names: of its weights, see `names_by_expert`.
        fetches: is added to.

    Raises:
        BonsaiError: the weights cannot be read.
    """
    stand_ins: dict[str, nn.Parameter] = {name: getattr(experts, name) for name in names}
    sources = {name: stored(offloaded_weights(experts), name) for name in names}
    device = execution_device(experts)
    rooms = {name: _room(sources[name], stand_in, device) for name, stand_in in stand_ins.items()}
    weights = {name: nn.Parameter(room, stand_ins[name].requires_grad) for name, room in rooms.items()}
    there: set[int] = set()

    def fetch(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert all(getattr(module, name) is weight for name, weight in weights.items()), "experts were changed"
        _, chosen, _ = args
        for number in chosen.unique().tolist():
            if number not in there:
                for name, room in rooms.items():
                    _fetch(sources[name][number], room[number])
                    fetches.num_bytes += room[number].nbytes
                there.add(number)
                fetches.num_experts += 1

    hook = experts.register_forward_pre_hook(fetch, prepend=True)  # before those that read the weights
    for name, weight in weights.items():
        setattr(experts, name, weight)
    try:
        yield
    finally:
        hook.remove()
        for name, stand_in in stand_ins.items():
            setattr(experts, name, stand_in)


def _room(source: Tensor, stand_in: nn.Parameter, device: torch.device) -> Tensor:
    if (source.device, source.dtype) == (device, stand_in.dtype):
        return source
    with torch.inference_mode(False):  # calls, which write into it, may be made in this mode or not
        return torch.zeros_like(stand_in, device=device, requires_grad=False)


def _fetch(source: Tensor, room: Tensor) -> None:
    if room.data_ptr() == source.data_ptr():
        read_in(room)
    elif room.device.type == "cuda":
        room.copy_(staged(source, room.dtype), non_blocking=True)
    else:
        room.copy_(source)
