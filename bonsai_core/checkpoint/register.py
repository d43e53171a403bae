"""Registers free-shape checkpoints with transformers, so that they load without remote code."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
)

from bonsai_core.checkpoint.modeling_bonsai import ragged
from bonsai_core.errors import UnknownNameError


def register(model_types: Iterable[str]) -> None:
    """Register the ragged classes of stock model types with transformers' auto classes; doing it again does nothing.

    Registered classes override a checkpoint's modeling file without a question, also with `trust_remote_code=True`
    (transformers 5.23).

    Args:
        model_types: stock `model_type` values, such as ``llama``.

    Raises:
        UnknownNameError: the installed transformers has no causal LM of that type.
    """
    for model_type in model_types:
        if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UnknownNameError(
                "causal language model type",
                model_type,
                (config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING),
                "A newer transformers may have it.",
            )
        config_class = CONFIG_MAPPING[model_type]
        ragged_config, ragged_base, ragged_model = ragged(
            config_class, MODEL_MAPPING[config_class], MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
        )
        AutoConfig.register(ragged_config.model_type, ragged_config, exist_ok=True)
        AutoModel.register(ragged_config, ragged_base, exist_ok=True)
        AutoModelForCausalLM.register(ragged_config, ragged_model, exist_ok=True)
