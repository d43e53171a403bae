"""Checkpoints of transformers as they are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bonsai_core import Checkpoint, Exporter
from bonsai_plugins.exporters.files import copy_files
from bonsai_plugins.exporters.runners import RUNNERS


class HuggingFace(Exporter):
    """A copy of the checkpoint, for transformers."""

    name: ClassVar[str] = "hf"
    runtime: ClassVar[str] = "transformers"
    runner: ClassVar[Path | None] = RUNNERS / "transformers_runner.py"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return None

    def as_saved(self, checkpoint: Checkpoint) -> bool:
        return True

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        copy_files(checkpoint.path, out)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        trusted = "" if checkpoint.stock else ", trust_remote_code=True"
        return [f'transformers.AutoModelForCausalLM.from_pretrained("{out}"{trusted})']
