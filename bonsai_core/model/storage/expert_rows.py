"""Experts of an offloaded mixture, fetched when a token is first sent to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.model.storage.incoming import Fetches
from bonsai_core.model.storage.memory import staged
from bonsai_core.model.storage.offloaded import is_changed, stored
from bonsai_core.upstream import execution_device, is_experts, offloaded_weights

EXPERTS_DIMENSIONS = 3


def names_by_expert(module: Any) -> list[str]:
    """The weights of an offloaded module that are fetched by expert: [experts, ...] of a mixture, as they are stored.

    What `changed` makes of them is made of all experts, so then there are none.
    """
    if not is_experts(module) or is_changed(module):
        return []
    weights: dict[str, nn.Parameter] = module._parameters
    return [name for name, weight in weights.items() if weight is not None and weight.ndim == EXPERTS_DIMENSIONS]


@contextmanager
def fetched_by_expert(experts: Any, names: list[str], fetches: Fetches) -> Iterator[None]:
    """The module has room for the weights of all experts, and before each of its calls, gets those that it lacks.

    Experts that no token was sent to are zeros. On the CPU, the system gives memory to what is written only.

    Args:
        experts: an offloaded module.
        names: of its weights, see `names_by_expert`.
        fetches: is added to.

    Raises:
        BonsaiError: the weights cannot be read.
    """
    stand_ins: dict[str, nn.Parameter] = {name: experts._parameters[name] for name in names}
    sources = {name: stored(offloaded_weights(experts), name) for name in names}
    with torch.inference_mode(False):  # calls may be made in this mode or not
        device = execution_device(experts)
        rooms = {name: torch.zeros_like(one, device=device, requires_grad=False) for name, one in stand_ins.items()}
    weights = {name: nn.Parameter(room, stand_ins[name].requires_grad) for name, room in rooms.items()}
    there: set[int] = set()

    def fetch(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert all(module._parameters[name] is weight for name, weight in weights.items()), "experts were changed"
        _, chosen, _ = args
        for number in chosen.unique().tolist():
            if number not in there:
                for name, room in rooms.items():
                    _copy(sources[name][number], room[number])
                    fetches.num_bytes += room[number].nbytes
                there.add(number)
                fetches.num_experts += 1

    hook = experts.register_forward_pre_hook(fetch, prepend=True)  # before those that read the weights
    experts._parameters.update(weights)
    try:
        yield
    finally:
        hook.remove()
        experts._parameters.update(stand_ins)


def _copy(source: Tensor, room: Tensor) -> None:
    if room.device.type == "cuda":
        room.copy_(staged(source, room.dtype), non_blocking=True)
    else:
        room.copy_(source)
