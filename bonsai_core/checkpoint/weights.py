"""The weight files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bonsai_core.errors import BonsaiError

FILE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


def weight_bytes(directory: Path) -> int:
    """Size of the weight files that transformers loads from a directory: one, or those that the index names.

    Other weights may be beside them, such as Mistral's `consolidated.safetensors`. Missing files count 0, and so do all
    if the index cannot be read.
    """
    try:
        names = {FILE_NAME} if (directory / FILE_NAME).is_file() else {*read_index(directory / INDEX_NAME).values()}
    except (OSError, ValueError):
        return 0
    files = [directory / name for name in names if Path(name).name == name]
    return sum(file.stat().st_size for file in files if file.is_file())


def has_weights(directory: Path) -> bool:
    """Whether a directory has weights where transformers looks for them."""
    return any((directory / name).is_file() for name in (FILE_NAME, INDEX_NAME))


def files_of_tensors(directory: Path) -> dict[str, Path]:
    """The file of every tensor by its name on disk: all in one, or as the index says.

    A file that the index names and that is not there is found missing when it is first read.

    Raises:
        BonsaiError: the files or their index cannot be read, or it names files outside of the directory.
    """
    file, index = directory / FILE_NAME, directory / INDEX_NAME
    try:
        if index.is_file() and not file.is_file():
            named = read_index(index)
            wrong = sorted({other for other in named.values() if Path(other).name != other})
            if wrong:
                raise BonsaiError(f"{index} names files outside of its directory: {', '.join(wrong[:3])}.")
            return {name: directory / other for name, other in named.items()}
        with safe_open(file, "pt") as opened:
            return dict.fromkeys(opened.keys(), file)
    except (OSError, SafetensorError, ValueError) as error:
        raise BonsaiError(f"The weights in {directory} cannot be read: {error}") from error


def read_index(index: Path) -> dict[str, str]:
    """The file of every tensor by its name on disk, as an index says, unchecked.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not an index.
    """
    contents = json.loads(index.read_text(encoding="utf-8"))
    files = contents.get("weight_map") if isinstance(contents, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{index.name} has no weight_map from names of tensors to names of files")
    return files
