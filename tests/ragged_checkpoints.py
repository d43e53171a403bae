"""Checkpoints whose layers differ in every way that they can, with random weights; imported by tests of exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import HEADS, Pico
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, PreTrainedTokenizerFast

from bonsai_core import Family
from bonsai_core.checkpoint.modeling_bonsai import ragged

PER_LAYER = ((0, 0, 20), (HEADS // 2, 1, 0), (HEADS // 2, 2, 33))
"""Numbers of query heads, KV groups and MLP channels of three layers: emptied, half, and half of each group's heads."""


def ragged_checkpoint(
    pico: Pico,
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    *,
    per_layer: tuple[tuple[int, int, int], ...] = PER_LAYER,
    added_biases: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    """Save a model of the shapes `free` of a family with two KV groups."""
    stock = pico.config
    stock_class: Any = type(stock)
    config_class, _, model_class = ragged(
        stock_class, MODEL_MAPPING[stock_class], MODEL_FOR_CAUSAL_LM_MAPPING[stock_class]
    )
    names = ("num_attention_heads", "num_key_value_heads", family.mlp.width_field)
    values: dict[str, Any] = {
        **{name: value for name, value in stock.to_dict().items() if name != "model_type"},
        "bonsai_family": family.model_dump(
            mode="json", exclude={"model_types", "where", "title", "why", "attention_unless"}
        ),
        "per_layer_config": {layer: dict(zip(names, sizes, strict=True)) for layer, sizes in enumerate(per_layer)},
    }
    if added_biases:
        values["added_biases"] = list(added_biases)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class.from_dict(values))
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
