"""Writes a pruned model as a checkpoint that loads again: whole, or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import MODEL_MAPPING

from bonsai_core.checkpoint.modeling_bonsai import ragged
from bonsai_core.checkpoint.parent import ParentFiles
from bonsai_core.checkpoint.uniform import check_uniform, set_head_dim, stock_class, under_own_names
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.files import atomic_folder

PROVENANCE_NAME = "bonsai.json"


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    directory: Path,
    *,
    family: Family,
    per_layer: Sequence[Mapping[str, int]],
    shapes: Literal["free", "uniform"],
    provenance: Mapping[str, object],
    added_biases: Sequence[str] = (),
    parent: ParentFiles | None = None,
) -> int:
    """Save a sliced model, its tokenizer, and how it was made.

    The same inputs give the same bytes. A kill leaves what was there before, or nothing, or the whole checkpoint; at
    worst a hidden sibling directory, which the next save removes. Neither model nor configuration is changed.

    Args:
        model: a transformers causal LM whose linears are sliced; emptied sub-layers are `EmptyAttention` and
            `EmptyMLP`, or MLPs of width 0. Its configuration still has the dense sizes.
        tokenizer: saved beside it; None saves none.
        directory: made, or replaced as a whole where it exists.
        per_layer: the true sizes of every layer, under the names of the configuration's fields.
        shapes: ``uniform`` writes a stock checkpoint; ``free`` one with its own modeling file.
        provenance: written to bonsai.json; values that JSON knows.
        added_biases: linears of every layer, by their names in it, with a bias that stock models lack.
        parent: what the checkpoint has from it unchanged; None writes all anew.

    Returns:
        The number of the saved model's parameters.

    Raises:
        BonsaiError: `shapes` is ``uniform`` and the sizes differ between layers or no stock model has them, or
            biases were added.
        ValueError: `per_layer` does not describe the weights.
    """
    small = empty_model(
        model.config, stock_class(type(model)), family, per_layer, shapes, added_biases, model.generation_config
    )
    # The loaded model has no modules for linears of width 0.
    weights = {name: weight for name, weight in model.state_dict().items() if weight.numel()}
    try:
        small.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"per_layer does not describe the weights of this model: {error}") from error
    small.tie_weights()
    with checkpoint_directory(directory, small, tokenizer, provenance, parent) as partial:
        small.save_pretrained(partial)
    return sum(parameter.numel() for parameter in small.parameters())


def empty_model(
    config: Any,
    model_class: Any,
    family: Family,
    per_layer: Sequence[Mapping[str, int]],
    shapes: Literal["free", "uniform"],
    added_biases: Sequence[str],
    generation_config: Any,
) -> Any:
    """The model that loading a checkpoint will build, on the meta device; arguments as for `save_checkpoint`.

    Args:
        config: of the dense model, but with the number of layers that are left.
    """
    values = config.to_dict()
    for name in ("model_type", "architectures", "auto_map", "per_layer_config", "bonsai_family", "quantization_config"):
        values.pop(name, None)  # they belong to the class, or to an earlier checkpoint
    if len(per_layer) != config.num_hidden_layers:
        raise ValueError(f"per_layer has {len(per_layer)} layers, the model {config.num_hidden_layers}.")
    config_class = stock_class(type(config))
    if shapes == "uniform":
        if added_biases:
            raise BonsaiError("Biases were added, which stock checkpoints have no place for. Save with shapes free.")
        sizes = {name: size for layer in per_layer for name, size in layer.items()}
        if any(size != sizes[name] for layer in per_layer for name, size in layer.items()):
            raise BonsaiError(
                "Uniform shapes need the same sizes in every layer, and these differ between layers. "
                "Save with shapes free, or prune with shapes uniform from the start."
            )
        check_uniform(config, sizes, family)
        values.update(under_own_names(config, sizes))
    else:
        config_class, _, model_class = ragged(config_class, MODEL_MAPPING[config_class], model_class)
        values["bonsai_family"] = family.model_dump(
            mode="json", exclude={"model_types", "where", "title", "why", "attention_unless"}
        )
        values["per_layer_config"] = {index: dict(sizes) for index, sizes in enumerate(per_layer)}
        if added_biases:
            values["added_biases"] = list(added_biases)
    set_head_dim(values, config, config_class)
    with torch.device("meta"):
        small = model_class(config_class.from_dict(values))
    small.tie_weights()
    small.generation_config = copy.deepcopy(generation_config)
    return small


@contextmanager
def checkpoint_directory(
    directory: Path, model: Any, tokenizer: Any, provenance: Mapping[str, object], parent: ParentFiles | None
) -> Iterator[Path]:
    """Where to write a model, which becomes a checkpoint when the block succeeds; arguments as for `save_checkpoint`.

    Tokenizer, provenance and the parent's files are added.
    """
    metadata = json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_folder(directory) as partial:
        yield partial
        if parent is not None:
            parent.complete(partial, model.config, tokenizer)
        elif tokenizer is not None:
            tokenizer.save_pretrained(partial)
        provenance_path = partial / PROVENANCE_NAME
        provenance_path.write_text(metadata, encoding="utf-8")
        for file in filter(Path.is_file, partial.rglob("*")):
            shutil.copymode(provenance_path, file)  # safetensors (0.8) makes its files unreadable for others
