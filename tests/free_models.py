"""Checkpoints with random weights whose layers have the sizes that a test wants, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from conftest import make_every_unit_count
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerFast

from bonsai_core import Family, Registry
from bonsai_core.checkpoint.save import empty_model
from bonsai_core.model.structure.declared import find_family


class Layer(NamedTuple):
    """The sizes of a layer.

    Attributes:
        groups: KV groups.
        width: channels of the MLP.
        heads: query heads; None for as many to a group as in the dense model.
    """

    groups: int
    width: int
    heads: int | None = None


EVERY_CASE = (
    Layer(0, 40),
    Layer(2, 0),
    Layer(1, 33),
    Layer(0, 0),
    Layer(2, 20, heads=6),
    Layer(0, 48),
    Layer(2, 48),
    Layer(0, 0),
)
"""Layers of a model with two groups of two heads: some emptied, the first and the last among them."""

THREE_LAYERS = (Layer(0, 20), Layer(1, 0), Layer(2, 33, heads=2))
"""Of the same model: no attention; half of the groups and no MLP; half of the heads of each group."""

ROOM = 520
"""Rows of embeddings that hold the tokens, too, that transformers adds to the tokenizers of some model types."""


def with_room(config: Any) -> Any:
    """A configuration with embeddings for every token of the saved tokenizer, as llama.cpp's converter wants it."""
    config.vocab_size = ROOM
    return config


def save_free(
    config: Any,
    layers: Sequence[Layer],
    tokenizer: PreTrainedTokenizerFast,
    registry: Registry,
    directory: Path,
    added_biases: Sequence[str] = (),
    **settings: Any,
) -> Path:
    """Save a model of the shapes `free`, and its tokenizer.

    Args:
        config: of the dense model; it may have another number of layers.
        added_biases: linears of every layer, by their names in it, that get a bias.
        settings: as for save_pretrained.
    """
    family = find_family(registry.families(), "auto", config)
    assert family is not None
    sizes = [_sizes(config, family, layer) for layer in layers]
    values: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if len(layers) != config.num_hidden_layers:
        values["layer_types"] = None  # the configuration derives them
    config = _changed(config, values)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    empty = empty_model(config, model_class, family, sizes, "free", added_biases, None)
    return _save(type(empty), empty.config, tokenizer, directory, **settings)


def save_stock(config: Any, tokenizer: PreTrainedTokenizerFast, directory: Path, **changes: Any) -> Path:
    """Save a model of the stock class, and its tokenizer; `changes` are of the configuration's fields."""
    config = _changed(config, changes)
    return _save(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, tokenizer, directory)


def _sizes(config: Any, family: Family, layer: Layer) -> dict[str, int]:
    """The sizes of a layer under the names of the configuration's fields."""
    attention = {} if family.attention is None else family.attention.sizes(config, layer.groups)
    if family.attention is not None and layer.heads is not None:
        attention[family.attention.heads_field] = layer.heads
    return {**attention, family.mlp.width_field: layer.width}


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with other values of those fields that it has, and what follows from them."""
    fitting = {name: value for name, value in changes.items() if hasattr(config, name)}
    return type(config).from_dict(config.to_dict() | fitting)


def _save(model_class: Any, config: Any, tokenizer: PreTrainedTokenizerFast, directory: Path, **settings: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        make_every_unit_count(model)
    model.save_pretrained(directory, **settings)
    tokenizer.save_pretrained(directory)
    return directory
