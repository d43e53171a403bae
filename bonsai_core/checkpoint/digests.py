"""What tells two checkpoints apart: digests of their tensors, and of the other files that are written with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bonsai_core.checkpoint.modeling_bonsai import FILE_NAME as MODELING
from bonsai_core.checkpoint.parent import CONFIG, GENERATION, tokenizer_patterns
from bonsai_core.checkpoint.weights import files_of_tensors
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.digests import digest_of

_LAYER = re.compile(r"(.+?\.\d+)\.")


def layer_of(name: str) -> str:
    """What a tensor is grouped under: its layer, such as ``model.layers.3``; outside of layers its own name."""
    match = _LAYER.match(name)
    return name if match is None else match[1]


def bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor on the CPU, uint8; equal ones are equal bit for bit, NaN and signed zeros included."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def weight_digests(directory: Path) -> dict[str, str]:
    """sha256 of a checkpoint's tensors as stored, by `layer_of` their names; in however many files they are.

    One tensor is in memory at a time.

    Raises:
        BonsaiError: the files cannot be read.
    """
    files = files_of_tensors(directory)
    try:
        return {layer: digest_of(_contents(names, files)) for layer, names in groupby(sorted(files), layer_of)}
    except (OSError, SafetensorError, ValueError) as error:
        raise BonsaiError(f"The weights in {directory} cannot be read: {error}") from error


def file_digests(directory: Path, tokenizer: Any) -> dict[str, str]:
    """sha256 of a checkpoint's configuration, code and tokenizer, by their names in its directory."""
    patterns = (CONFIG, GENERATION, MODELING, *tokenizer_patterns(tokenizer))
    files = {file for pattern in patterns for file in directory.glob(pattern) if file.is_file()}
    named = {file.relative_to(directory).as_posix(): file for file in files}
    return {name: hashlib.sha256(named[name].read_bytes()).hexdigest() for name in sorted(named)}


def _contents(names: Iterator[str], files: dict[str, Path]) -> Iterator[tuple[str, memoryview]]:
    for name in names:
        with safe_open(files[name], "pt") as opened:
            tensor = opened.get_tensor(name)
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}", bytes_of(tensor).numpy().data
