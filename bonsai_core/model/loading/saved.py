"""Whether a checkpoint, loaded as its users load it, is the model that was measured."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.checkpoint.modeling_bonsai import FILE_NAME, PREFIX
from bonsai_core.contracts.metric import token_nll
from bonsai_core.errors import BonsaiError
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.loading.checked_config import checked_config
from bonsai_core.model.loading.load import load_checked, load_with
from bonsai_core.model.loading.lookup import model_config
from bonsai_core.model.storage.devices import Placement
from bonsai_core.model.storage.memory import drop_weights

FLOAT32_TOLERANCE = 1e-4
"""Relative difference of two losses on one window: the same products of the same numbers."""
HALF_TOLERANCE = 1e-2
"""The same in half precision."""
MASKED_FACTOR = 10
"""For a model that was measured masked: with its smaller matrices, sums are taken in another order."""


def measured_loss(model: CausalLM, window_T: NDArray[np.int64]) -> dict[str, float | None]:
    """``loss``: mean negative log-likelihood in nats of a window of tokens, int64 [T]; None if it is not finite."""
    passes = Passes(model, Chunks(window_T.size, lambda text: None))
    loss = passes.predictions.token_mean(lambda logits, targets, _: token_nll(logits, targets), window_T[None], None)
    return {"loss": loss if math.isfinite(loss) else None}


def verify_saved(
    directory: Path,
    window_T: NDArray[np.int64],
    loss: float | None,
    placement: Placement,
    *,
    masked: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Load a checkpoint in each of its ways, one at a time, and compare its loss on a window.

    Args:
        window_T: tokens, int64 [T].
        loss: the measured model's, see `measured_loss`.
        masked: whether the measured model was masked instead of sliced.
        trust_remote_code: whether code that came with the dense model may run.

    Returns:
        ``loss``, and ``loaded``: the loss by way of loading; or ``skipped``: why nothing was compared.

    Raises:
        BonsaiError: it cannot be loaded in one of these ways, or is another model.
    """
    if loss is None:
        return {"skipped": "the loss of the measured model is not finite"}
    loaded: dict[str, float | None] = {}
    for way, load in _ways(directory, placement, trust_remote_code).items():
        model = load()
        loaded[way] = value = measured_loss(model, window_T)["loss"]
        tolerance = FLOAT32_TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
        drop_weights(model)
        tolerance *= MASKED_FACTOR if masked else 1
        if value is None or not math.isclose(value, loss, rel_tol=tolerance):
            raise BonsaiError(
                f"The checkpoint {directory} is not the model that was measured: loaded with {way}, its loss on the "
                f"first evaluation window is {value}, and that of the measured model is {loss}. Do not use it, and "
                f"report this with the settings and the model's config.json."
            )
    return {"loss": loss, "loaded": loaded}


def _ways(directory: Path, placement: Placement, trust_remote_code: bool) -> dict[str, Callable[[], Any]]:
    """The ways in which a checkpoint can be loaded, under the names that users know."""

    def registered() -> Any:
        config = checked_config(str(directory), trust_remote_code, warnings.warn)
        return load_checked(str(directory), config, placement, trust_remote_code=trust_remote_code, warn=warnings.warn)

    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not saved["model_type"].startswith(PREFIX):
        return {"transformers": registered}
    return {
        "bonsai-prune installed": registered,
        "trust_remote_code=True": lambda: _load_by_its_code(directory, placement),
    }


def has_own_code(directory: Path) -> bool:
    """Whether the modeling file of a checkpoint, which is executed when it is loaded, is exactly what Bonsai writes."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    file = directory / FILE_NAME
    if not file.is_file():
        return False
    known = model_config(str(directory), trust_remote_code=False)
    if not known.model_type.startswith(PREFIX):
        return False
    return bool(file.read_text(encoding="utf-8") == MODEL_FOR_CAUSAL_LM_MAPPING[type(known)].code())


def _load_by_its_code(directory: Path, placement: Placement) -> Any:
    """A checkpoint of the shapes `free`, loaded by the modeling file in it, as if Bonsai were not installed.

    Raises:
        BonsaiError: it cannot be loaded, or its file, which is executed, is not exactly what Bonsai writes.
    """
    file = directory / FILE_NAME
    if not has_own_code(directory):
        raise BonsaiError(f"{file} is not what this version of Bonsai writes, so it is not run.")
    # Not through transformers, which would leave a copy of the file in its cache.
    spec = spec_from_file_location(f"{file.stem}_of_a_checkpoint", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # transformers looks types up there
    spec.loader.exec_module(module)
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model_class = getattr(module, saved["auto_map"]["AutoModelForCausalLM"].rpartition(".")[2])
    config = model_class.config_class.from_pretrained(directory)
    return load_with(model_class, str(directory), {"config": config}, placement, warnings.warn)
