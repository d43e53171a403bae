"""Checkpoints of the shapes `free` with random weights, of any sizes and families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerFast

from bonsai_core import Family
from bonsai_core.checkpoint.save import empty_model


def free_model(config: Any, family: Family, layers: Sequence[tuple[int, int]], biases: Sequence[str] = ()) -> Any:
    """A causal LM whose layers have these numbers of KV groups and these widths, under its own ragged class.

    Args:
        config: of the stock model, with the dense sizes.
        biases: linears of every layer, by their names in it, that get a bias.
    """
    sizes = []
    for groups, width in layers:
        attention = {} if family.attention is None else family.attention.sizes(config, groups)
        sizes.append({**attention, family.mlp.width_field: width})
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    empty = empty_model(config, model_class, family, sizes, "free", biases, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = type(empty)(empty.config)
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model.eval()


def save_free(model: Any, tokenizer: PreTrainedTokenizerFast, directory: Path, **settings: Any) -> Path:
    """The model on disk with its tokenizer; `settings` as for save_pretrained."""
    model.save_pretrained(directory, **settings)
    tokenizer.save_pretrained(directory)
    return directory
