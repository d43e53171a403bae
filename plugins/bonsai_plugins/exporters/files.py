"""The files of a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

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


def copy_all(source: Path, out: Path) -> None:
    """Copy the files of a checkpoint into a directory; links become files."""
    for file in filter(Path.is_file, source.iterdir()):
        shutil.copyfile(file, out / file.name)


def copy_without_weights(source: Path, out: Path) -> None:
    """Copy the configuration, the tokenizer and what else is small."""
    for file in filter(Path.is_file, source.iterdir()):
        if not file.name.endswith(WEIGHTS):
            shutil.copyfile(file, out / file.name)
