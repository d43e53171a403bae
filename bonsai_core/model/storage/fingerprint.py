"""What tells two models apart cheaply, whether their weights are in memory or in files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from torch import Tensor

FIRST_VALUES = 256


def fingerprint(model: Any) -> str:
    """That of all parameters of a model; see `weights_fingerprint`."""
    return weights_fingerprint((name, tuple(weight.shape), weight) for name, weight in model.named_parameters())


def weights_fingerprint(weights: Iterable[tuple[str, tuple[int, ...], Tensor]]) -> str:
    """sha256 over names, shapes, types and first values, in the order given.

    Args:
        weights: of each its name, its shape, and a tensor that begins with its first values.
    """
    digest = hashlib.sha256()
    for name, shape, first in weights:
        values = first.detach().flatten()[:FIRST_VALUES].float().cpu().numpy().tobytes()
        digest.update(f"{name} {shape} {first.dtype}".encode() + values)
    return digest.hexdigest()
