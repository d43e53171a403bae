"""Where a checkpoint comes from: what `bonsai.json` beside its weights says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.checkpoint.save import PROVENANCE_NAME
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir import RunDirectory
from bonsai_core.sources import user_path

_LAYER = re.compile(r"layers\.(\d{1,9})(?:\.|$)")
CONFIG_NAMES = ("config.yaml", "adapt.yaml")


@dataclass(frozen=True)
class Provenance:
    """A checkpoint, and where it comes from.

    Attributes:
        source: a directory, a Hugging Face id, or ``demo``.
        run: the run directory that it is stored in; None if it is not in one.
        metadata: the contents of bonsai.json; empty for models that Bonsai did not write.
    """

    source: str
    run: Path | None
    metadata: Mapping[str, Any]

    @property
    def dense(self) -> str | None:
        """The model that it was pruned from; None if that is not known."""
        name = self.metadata.get("base_model")
        return name if isinstance(name, str) else None

    def setting(self, name: str) -> str | None:
        """A setting of the run that pruned it, if it is a string; else None."""
        config = self.metadata.get("config")
        value = config.get(name) if isinstance(config, dict) else None
        return value if isinstance(value, str) else None

    def layers(self) -> list[int] | None:
        """For each of its layers, the number it had in the dense model; None where that is not known."""
        kept = self.metadata.get("kept_units")
        if not isinstance(kept, dict):
            return None
        numbers = sorted({int(match[1]) for name in kept if (match := _LAYER.match(name))})
        return [number for number in numbers if kept.get(f"layers.{number}") != []]


def find_provenance(name: str) -> Provenance:
    """Look a model up by what users call it: a run directory means the checkpoint in it.

    Raises:
        BonsaiError: it is a run that has no checkpoint yet.
    """
    path = user_path(name)
    directory = RunDirectory(path)
    if any((path / config).is_file() for config in CONFIG_NAMES):
        if not directory.model_path.is_dir():
            raise BonsaiError(f"The run {name} has no model yet; continue it with: bonsai resume {name}")
        return Provenance(str(directory.model_path), path, _metadata(directory.model_path))
    in_run = any((path.parent / config).is_file() for config in CONFIG_NAMES) and path.name == directory.model_path.name
    return Provenance(name, path.parent if in_run else None, _metadata(path))


def _metadata(path: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError, RecursionError):  # it only serves convenience
        metadata = json.loads((path / PROVENANCE_NAME).read_text(encoding="utf-8"))
        if isinstance(metadata, dict):
            return metadata
    return {}
