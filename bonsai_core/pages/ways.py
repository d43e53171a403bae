"""In which runtimes a checkpoint runs, as data for terminals and pages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """A runtime and how it runs a checkpoint, or why it does not.

    Attributes:
        runtime: as people call it.
        commands: what users type, as lines of shell or Python.
        outcome: whether it was verified there, in a sentence; "" if nobody asked.
        refusal: why it cannot take the checkpoint; None if it can.
        needs: why the export that the commands begin with cannot be written here yet; "" if it can.
    """

    runtime: str
    commands: tuple[str, ...] = ()
    outcome: str = ""
    refusal: str | None = None
    needs: str = ""
