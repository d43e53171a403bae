"""Weights, gradients and the optimiser's state spread over the ranks: torch's FSDP2, which `--shard` asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bonsai_core.adaptation.objective import Objective
from bonsai_core.adaptation.ranks import Ranks

Value = TypeVar("Value")


def shard(objective: Objective, layers: Sequence[nn.Module], ranks: Ranks, *, mixed: bool) -> None:
    """Leave to every rank its part of each parameter, in float32; a layer's others are there while it runs.

    What is in no layer, embeddings and head, is gathered for the whole of a pass. All ranks call this, and everything
    that runs the student afterwards, together.

    Args:
        objective: whole, on its device, the same on all ranks.
        layers: the student's decoder layers.
        mixed: whether layers compute with weights in bfloat16.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(objective.parameters()).device.type, (ranks.count,))
    # As under autocast, but that weights are rounded before they are gathered: autocast would keep its own whole copies
    # of them until the backward pass.
    rounding = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = rounding if mixed else MixedPrecisionPolicy()
    for layer in layers:
        fully_shard(layer.float(), mesh=mesh, mp_policy=policy)
    fully_shard(objective.float(), mesh=mesh)
    register_fsdp_forward_method(objective, "with_weights")
    gathering: Sequence[Any] = layers

    def gather_each() -> None:
        for layer in gathering:
            layer.unshard()  # the tensors for it are kept: those of inference mode could not be trained with later
            layer.reshard()

    with_weights(objective, gather_each)


def with_weights(objective: Objective, compute: Callable[[], Value]) -> Value:
    """What is computed with a student that may be sharded, outside of its training passes."""
    value = objective.with_weights(compute)
    sharded: Any = objective
    if is_sharded(objective):
        sharded.reshard()
    return value


def is_sharded(objective: Objective) -> bool:
    """Whether each rank has its part of the weights only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(objective, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each rank has a part, gathered by all of them together; others as they are."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def set_part(tensor: Tensor, values: Tensor) -> None:
    """Copy values into a tensor; of one that is sharded, this rank's part of them."""
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        parts = values.chunk(mesh.size())
        rank = mesh.get_local_rank()
        tensor, values = tensor.to_local(), parts[rank] if rank < len(parts) else values[:0]
    tensor.copy_(values)
