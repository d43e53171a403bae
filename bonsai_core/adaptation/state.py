"""The state of an adaptation on disk: what is trained, and what the optimiser remembers, in one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bonsai_core.adaptation.ranks import ALONE, Ranks
from bonsai_core.adaptation.sharding import set_part, whole
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.digests import digest_of
from bonsai_core.rundir.files import atomic_file

STEP, DIGEST = "step", "sha256"


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_state(
    path: Path, step: int, parameters: dict[str, nn.Parameter], optimizer: Any, ranks: Ranks = ALONE
) -> None:
    """Have the first rank write the state after a step, as a whole or not at all; all ranks call this together.

    Raises:
        BonsaiError: the disk is full or not writable.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for what, value in {"weight": parameter.detach(), **optimizer.state[parameter]}.items():
            tensor = whole(value)
            if ranks.is_first:
                tensors[f"{what}/{name}"] = tensor.cpu().contiguous()
    ranks.share(lambda: _write(path, step, tensors))


def _write(path: Path, step: int, tensors: dict[str, Tensor]) -> None:
    about = {STEP: str(step), DIGEST: _digest(step, tensors.items())}
    try:
        with atomic_file(path) as partial:
            save_file(tensors, partial, about)
    except (OSError, SafetensorError) as error:
        raise BonsaiError(
            f"The state after step {step} cannot be written to {path}: {error}. Make room, then: bonsai resume "
            f"{path.parent}"
        ) from None


def load_state(path: Path, parameters: dict[str, nn.Parameter], optimizer: Any) -> int:
    """Restore a saved state; returns the step it was saved after, 0 if there is none.

    Raises:
        BonsaiError: the file is damaged, and nothing of it is restored; or it belongs to another model.
    """
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            about = file.metadata()
            step, keys = int(about[STEP]), list(file.keys())
            if _digest(step, ((key, file.get_tensor(key)) for key in keys)) != about[DIGEST]:
                raise ValueError("its contents are not what was saved")
            for name, parameter in parameters.items():
                set_part(parameter, file.get_tensor(f"weight/{name}"))
            for key in keys:
                what, _, name = key.partition("/")
                if what != "weight":
                    optimizer.state[parameters[name]][what] = _as_kept(file.get_tensor(key), parameters[name])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise BonsaiError(
            f"{path} is damaged or belongs to another model ({error}). Delete it to begin the training anew."
        ) from error
    return step


def _as_kept(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """What the optimiser remembers of a parameter: one number, or one for each of its elements."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    kept = torch.empty_like(parameter)
    set_part(kept, value)
    return kept


def _digest(step: int, tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Of everything in the file: a single changed bit would spoil the training without a sign."""
    return digest_of(((name, tensor.flatten().view(torch.uint8).numpy().data) for name, tensor in tensors), step)
