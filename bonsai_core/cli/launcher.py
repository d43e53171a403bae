"""What may run in the several processes that torchrun or `accelerate launch` start."""

from __future__ import annotations

from pathlib import Path

from bonsai_core.adaptation.directory import is_adaptation
from bonsai_core.adaptation.ranks import OtherRankError, Ranks, launched
from bonsai_core.errors import BonsaiError
from bonsai_core.rundir import RunDirectory

SEVERAL = ("adapt", "resume")
"""The commands whose processes work together."""


def refuse_launcher(command: str) -> None:
    """Check that a command does not run in several processes, which would each do all of it.

    Raises:
        BonsaiError: it would.
    """
    number, count = launched()
    if count == 1 or command in SEVERAL:
        return
    if number:
        raise OtherRankError
    first = "Prune in one process first" if command == "run" else "Run it in one process"
    raise BonsaiError(
        f"A launcher has started {count} processes, and `bonsai {command}` works in one. {first}, without the "
        f"launcher; adaptations take several: torchrun --nproc-per-node {count} -m bonsai_core adapt RUN."
    )


def refuse_run(path: Path, ranks: Ranks) -> None:
    """Check that what several processes are to resume is an adaptation.

    Raises:
        BonsaiError: it is not, or there is nothing.
    """
    if ranks.count == 1 or is_adaptation(path):
        return
    adapted = RunDirectory.open(path).adapted_path
    if is_adaptation(adapted):
        raise BonsaiError(
            f"{path} is a run, which one process resumes. Its adaptation takes {ranks.count}: resume {adapted}."
        )
    raise BonsaiError(f"{path} is a run, which one process resumes. Leave the launcher out: bonsai resume {path}")
