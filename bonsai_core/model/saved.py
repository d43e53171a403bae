"""Whether a checkpoint, opened as its users open it, is the model that was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.checkpoint.modeling_bonsai import PREFIX
from bonsai_core.contracts.metric import token_nll
from bonsai_core.errors import BonsaiError
from bonsai_core.model.load import load_by_its_code, load_model
from bonsai_core.model.pages import release
from bonsai_core.model.passes import Passes

FLOAT32_TOLERANCE = 1e-4
"""Relative difference of two losses on one window: the same products of the same numbers, in other memory."""
HALF_TOLERANCE = 1e-2
"""The same in half precision."""
MASKED_FACTOR = 10
"""Where a mask was measured and smaller matrices are loaded, sums are taken in another order."""


def measured_loss(model: Any, window_T: NDArray[np.int64]) -> dict[str, float | None]:
    """``loss``: mean negative log-likelihood of a window's tokens, nats; None where it is not finite.

    Args:
        window_T: tokens, int64 [sequence].
    """
    passes = Passes(model, 1, lambda text: None)
    loss = passes.token_mean(lambda logits, targets, _: token_nll(logits, targets), window_T[None], None)
    return {"loss": loss if math.isfinite(loss) else None}


def verify(
    directory: Path,
    window_T: NDArray[np.int64],
    loss: float | None,
    *,
    masked: bool,
    trust_remote_code: bool,
    **placed: Any,
) -> dict[str, Any]:
    """Load a checkpoint in every way there is, one at a time, and compare what it makes of a window.

    Args:
        window_T: tokens, int64 [sequence].
        loss: what the measured model makes of it, see `measured_loss`.
        masked: whether the measured model was under a mask.
        trust_remote_code: whether code that came with the dense model may run.
        placed: arguments of `load_model`: device, device_map, max_memory.

    Returns:
        ``loss``, and ``loaded``: the same by the way of loading.

    Raises:
        BonsaiError: it cannot be loaded in one of them, or is another model.
    """
    ways: dict[str, Callable[[], Any]] = {
        "transformers": lambda: load_model(str(directory), trust_remote_code=trust_remote_code, **placed)
    }
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if saved["model_type"].startswith(PREFIX):
        ways = {
            "bonsai-prune installed": lambda: load_model(str(directory), **placed),
            "trust_remote_code=True": lambda: load_by_its_code(str(directory), **placed),
        }
    loaded: dict[str, float | None] = {}
    for way, load in ways.items():
        model = load()
        loaded[way] = found = measured_loss(model, window_T)["loss"]
        tolerance = FLOAT32_TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
        release(model)
        if not _alike(found, loss, tolerance * (MASKED_FACTOR if masked else 1)):
            raise BonsaiError(
                f"The checkpoint {directory} is not the model that was measured: loaded with {way}, its loss on the "
                f"first evaluation window is {found}, and that of the measured model is {loss}. Do not use it, and "
                f"report this with the settings and the model's config.json."
            )
    return {"loss": loss, "loaded": loaded}


def _alike(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=tolerance)
