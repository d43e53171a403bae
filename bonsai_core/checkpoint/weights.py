"""The weight files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

FILE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


def weight_bytes(directory: Path) -> int:
    """Size of the weight files that transformers loads from a directory: one, or those that the index names.

    Other weights may be beside them, such as Mistral's `consolidated.safetensors`. What is missing counts nothing, and
    so do all where the index cannot be read.
    """
    names = [FILE_NAME] if (directory / FILE_NAME).is_file() else _indexed(directory / INDEX_NAME)
    files = [directory / name for name in names if Path(name).name == name]
    return sum(file.stat().st_size for file in files if file.is_file())


def _indexed(index: Path) -> list[str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(file) for file in named.values()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
