"""Checkpoints for transformers 4 and what is built on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from bonsai_core import Checkpoint, Exporter, Family, Shapes
from bonsai_plugins.exporters.files import CONFIG, copy_files, write_json
from bonsai_plugins.exporters.runners import RUNNERS

INPUTS = ("input_ids", "attention_mask")


class Stock(Exporter):
    """A copy of the checkpoint that transformers 4.57 reads too, as do all runtimes of the family's stock models.

    Keys of config.json and tokenizer_config.json that transformers 5 renamed get both names. All else is copied.
    """

    name: ClassVar[str] = "stock"
    runtime: ClassVar[str] = "transformers4"
    runner: ClassVar[Path | None] = RUNNERS / "transformers_runner.py"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        if checkpoint.stock:
            return None
        return "its layers differ in width, which no stock class takes: prune with --shapes uniform or --units layer."

    def as_saved(self, checkpoint: Checkpoint) -> bool:
        return not _changed(checkpoint)

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        copy_files(checkpoint.path, out)
        for name, values in _changed(checkpoint).items():
            write_json(out / name, values)

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        capped = getattr(checkpoint.config, "attn_logit_softcapping", None)
        eager = ', attn_implementation="eager"' if capped else ""  # the default of version 4 forgets the cap
        return [f'transformers.AutoModelForCausalLM.from_pretrained("{out}"{eager})']

    def shapes(self, config: Any, family: Family) -> Shapes:
        return Shapes(uniform=True)


def _changed(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The JSON files that transformers 4 would read otherwise than version 5, by name, as both read them alike."""
    from bonsai_core import older_tokenizer, with_older_keys  # not above: they load torch, which listings do without

    changed = {}
    for name in (CONFIG, "tokenizer_config.json"):
        file = checkpoint.path / name
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        older = with_older_keys(values, type(checkpoint.config)) if name == CONFIG else older_tokenizer(values, INPUTS)
        if older != values:
            changed[name] = older
    return changed
