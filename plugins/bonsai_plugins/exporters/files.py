"""The files of a checkpoint beside its weights: copied, read and written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".gguf",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
)
"""Ends of the names of files with weights, in any library's format."""
OURS = ("auto_map", "per_layer_config", "bonsai_family", "added_biases")
"""Keys of config.json that only Bonsai's modeling file reads."""


def copy_files(source: Path, out: Path, without: tuple[str, ...] = ()) -> None:
    """Copy the files of a checkpoint into a directory; links become files.

    Args:
        without: ends of the names of files that are left out.
    """
    for file in filter(Path.is_file, source.iterdir()):
        if not file.name.endswith(without):
            shutil.copyfile(file, out / file.name)


def read_config(directory: Path) -> dict[str, Any]:
    """What config.json says."""
    values: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return values


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a file in the layout of transformers, with the keys in their order."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_stock(values: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """A config.json that names the stock class, without what only Bonsai's modeling file reads."""
    return {
        **{name: value for name, value in values.items() if name not in OURS},
        "model_type": model_type,
        "architectures": [name.removeprefix("Bonsai") for name in values.get("architectures") or ()],
    }
