"""Plans: what was done to the base model, from which `bonsai apply` makes the checkpoint again."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import ClassVar

from bonsai_core import Checkpoint, Exporter


class Plan(Exporter):
    """What was kept of the base model, and what was repaired: as a rule much smaller than the checkpoint."""

    name: ClassVar[str] = "plan"
    runtime: ClassVar[str] = "bonsai apply"
    takes_adapted: ClassVar[bool] = False

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        from bonsai_core import plan_refusal  # with torch, which listings do without

        return plan_refusal(checkpoint)

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        from bonsai_core import write_plan

        write_plan(checkpoint, out)

    def check(self, checkpoint: Checkpoint, out: Path) -> str:
        from bonsai_core import apply_plan

        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            apply_plan(out, Path(folder, "applied"))
        return "applied to the base model, it gives the checkpoint, bit for bit"

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        sizes = f"  # {_megabytes(out)} in place of {_megabytes(checkpoint.path)}" if out.exists() else ""
        return [f"bonsai apply {shlex.quote(str(out))}{sizes}"]


def _megabytes(directory: Path) -> str:
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
