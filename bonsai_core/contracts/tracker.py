"""Trackers: a run's values, kept where people compare experiments."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bonsai_core.contracts.component import Component
from bonsai_core.errors import BonsaiError

Plain = str | int | float | bool


class TrackedRun(ABC):
    """The record of one run or adaptation in a tracker, open until it ends.

    What a method raises stops the tracking, not the run: the user sees it as a warning.
    """

    @abstractmethod
    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Add a point to some curves.

        Args:
            group: which steps are counted: ``submodel`` (all sub-models of a run), ``round``, ``train`` (optimiser
                steps) or ``curve`` (the same steps, where perplexity was measured).
            values: finite, by name, of letters, digits and ``_.-``.
            step: position within the group. Steps of one group rise, but groups come in any order.
        """

    @abstractmethod
    def close(self, summary: Mapping[str, float]) -> None:
        """End the record. `summary` is the final report, as `values` in `log`; empty if the run was interrupted."""


class Tracker(Component):
    """Opens records of runs in a service or in files. `--tracker NAME` chooses it.

    Attributes:
        package: what has to be importable.
        requirement: what ``pip install`` calls it.
    """

    package: ClassVar[str]
    requirement: ClassVar[str]

    def check_ready(self) -> None:
        """Check that the package is there; a run asks before it starts.

        Raises:
            BonsaiError: it is not; the message says how to get it.
        """
        if importlib.util.find_spec(self.package) is None:
            raise BonsaiError(
                f"The tracker {self.name} needs the package {self.package}, which is not installed: "
                f"pip install '{self.requirement}'"
            )

    @abstractmethod
    def open(self, name: str, directory: Path, settings: Mapping[str, Plain]) -> TrackedRun:
        """Begin a record; called once the settings are valid and the model is loaded.

        A run that is resumed is opened again, and logs only what is new: a record of the same directory may go on.

        Args:
            name: of the run, for people.
            directory: of the run; a tracker may write a file or a folder there, under its own name.
            settings: what decides the result, by name; those of plugins as ``prior.damping``. Of paths, only the
                last part.
        """
