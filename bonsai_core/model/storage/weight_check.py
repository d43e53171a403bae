"""Whether a checkpoint's files hold the weights that its configuration asks for: no weight is ever made up.

transformers fills what is missing with random numbers, drops what has no place, and reports both in a log.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from bonsai_core.errors import BonsaiError
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.upstream import may_be_left_over, may_be_missing

NAMED = 5
"""Weights that a message names; the others are counted."""
BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"attn\.(masked_)?bias$", r"attention\.(masked_)?bias$")
"""Constants that older releases of transformers stored beside the weights."""


def check_weights(source: str, model: Any, files: WeightFiles, warn: Callable[[str], None]) -> None:
    """Check that every weight of a model is in its files, in its shape, and that nothing else is.

    Args:
        source: what the user calls it.
        model: made from the configuration; it may be on the meta device.
        warn: receives a sentence about tensors that belong to no part of the model.

    Raises:
        BonsaiError: weights are missing or have other shapes, or the files have some for parts of the model that the
            configuration gives none; the message names them.
    """
    present = model.state_dict()
    missing = [name for name in _missing(model, files) if not _matches(name, may_be_missing(model))]
    ignored = (*may_be_left_over(model), *BUFFERS)
    unexpected = [name for name in files if name not in present and not _matches(name, ignored)]
    if missing:
        prefix = _common_prefix(unexpected, present, model.base_model_prefix)
        hint = _strip(prefix) if prefix else "Download the model again, or save it again with save_pretrained."
        raise BonsaiError(
            f"Weights of {source} are not in its files ({len(missing)} of {len(present)}): {listed(missing)}. {hint}"
        )
    once = dict(model.named_parameters()) | dict(model.named_buffers())  # tied weights under one name
    stored = {name: tensor for name, tensor in once.items() if name in present and name in files}
    wrong = [text for name, tensor in stored.items() if (text := _mismatch(name, tensor, files))]
    if wrong:
        raise BonsaiError(
            f"Weights of {source} do not have the shape that its config.json asks for ({len(wrong)} of "
            f"{len(present)}): {listed(wrong)}. Put back the config.json that belongs to them (vocab_size, "
            f"hidden_size, ...)."
        )
    owned = [name for name in unexpected if _belongs(name, model)]
    if owned:
        raise BonsaiError(
            f"The files of {source} hold weights that the model described by its config.json has no place for, so "
            f"that it would compute something else: {listed(owned)}. Put back the config.json that belongs to them "
            f"(for biases, attention_bias or mlp_bias; for layers, num_hidden_layers), or take them out of the files."
        )
    if unexpected:
        warn(
            f"The files of {source} have tensors that belong to no part of the model as its config.json describes it "
            f"({len(unexpected)} of them), and they are left out: {listed(unexpected)}."
        )


def _missing(model: Any, files: WeightFiles) -> list[str]:
    """Weights that are in no file, under none of their names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    persistent = model.state_dict().keys()
    buffers = [[name] for name, _ in model.named_buffers() if name in persistent]
    return [group[0] for group in (*names.values(), *buffers) if not any(name in files for name in group)]


def _mismatch(name: str, tensor: torch.Tensor, files: WeightFiles) -> str | None:
    """How a weight in the files differs from the model's in size."""
    shape = files.shape(name)
    if shape is not None and shape != tuple(tensor.shape):
        return f"{name} is {list(shape)} in the files, {list(tensor.shape)} in the model"
    count = files.num_elements(name)
    if count is not None and count != tensor.numel():
        return f"{name} has {count:,} numbers in the files, {tensor.numel():,} in the model"
    return None


def _belongs(name: str, model: nn.Module) -> bool:
    """Whether a tensor is one of a part that the model has, or of one more layer like its own."""
    parts = name.split(".")
    module: Any = model
    depth = 0
    while depth < len(parts) and (child := dict(module.named_children()).get(parts[depth])) is not None:
        module, depth = child, depth + 1
    if isinstance(module, nn.ModuleList):
        rest = ".".join(parts[depth + 1 :])
        return any(rest in dict(layer.named_parameters()) for layer in module)
    return module not in (model, model.base_model)


def _common_prefix(unexpected: Iterable[str], present: Iterable[str], base: str) -> str | None:
    """What all unexpected names have before a name of the model, with or without its base; None if there is no such."""
    known = {*present, *(name.removeprefix(f"{base}.") for name in present)}
    prefixes = {_prefix(name, known) for name in unexpected}
    prefix = prefixes.pop() if len(prefixes) == 1 else None
    return prefix if prefix and re.fullmatch(r"[A-Za-z0-9_.]+", prefix) else None  # it goes into a command


def _prefix(name: str, known: set[str]) -> str | None:
    parts = name.split(".")
    ends = (i for i in range(1, len(parts)) if ".".join(parts[i:]) in known)
    return ".".join(parts[: next(ends, 0)]) or None


def _strip(prefix: str) -> str:
    return (
        f"All names in the files begin with {prefix + '.'!r}, as torch.compile and other wrappers leave them. Take it "
        f'off, for each file: python -c "from safetensors.torch import load_file, save_file; import sys; f = '
        f"sys.argv[1]; save_file({{k.removeprefix('{prefix}.'): v for k, v in load_file(f).items()}}, f, "
        f"{{'format': 'pt'}})\" model.safetensors"
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def listed(names: list[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
