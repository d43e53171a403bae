"""Pico checkpoints whose layers differ in width as a test wants them, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import Pico, family_of
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import Registry
from bonsai_core.checkpoint.save import empty_model

EVERY_CASE = ((0, 0, 40), (4, 2, 0), (2, 1, 33), (0, 0, 0), (6, 2, 20), (0, 0, 48), (4, 2, 48), (0, 0, 0))
"""Query heads, KV groups and channels of layers: some emptied, the first and the last among them."""


ROOM = 520
"""Rows of the embeddings: transformers adds tokens of their own to the tokenizers of some model types."""


def save_stock(pico: Pico, tokenizer: PreTrainedTokenizerFast, directory: Path, **changes: Any) -> Path:
    """A checkpoint of the stock class with random weights; `changes` of the configuration's fields."""
    config = _changed(pico.config, changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        _make_all_count(model)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_free(
    pico: Pico,
    sizes: Sequence[tuple[int, int, int]],
    tokenizer: PreTrainedTokenizerFast,
    registry: Registry,
    directory: Path,
    added_biases: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """A checkpoint with random weights whose layers have these query heads, KV groups and channels.

    Args:
        changes: of the configuration's fields.
    """
    config = _changed(pico.config, {"num_hidden_layers": len(sizes), "layer_types": None, **changes})
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    per_layer = [dict(zip(names, layer, strict=True)) for layer in sizes]
    dense = AutoModelForCausalLM.from_config(pico.config)
    family = family_of(registry, pico)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = empty_model(
            config, type(dense), family, per_layer, "free", added_biases, dense.generation_config
        ).to_empty(device="cpu")
        _make_all_count(model)
    model.tie_weights()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    for name, value in {"vocab_size": ROOM, **changes}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return type(config).from_dict(config.to_dict())


def _make_all_count(model: Any) -> None:
    """Weights that are large enough that every unit matters."""
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
