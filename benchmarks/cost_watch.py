"""A run seen from outside, while it goes on."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

import psutil

from bonsai_core import hookimpl
from bonsai_core.events import Event, RoundFinished, Stage, StageStarted, TokensDone
from bonsai_core.model.storage.incoming import Fetches

CHECKPOINT = {"model", ".model.partial", ".model.previous"}
"""Folders of a run's checkpoint; everything else is scratch."""
LOOK_S = 0.02


@dataclass(frozen=True)
class RoundCost:
    """What a round takes, from the start of its prior to its end.

    Attributes:
        fetched_bytes: of weights that are not where they are used.
        fetched_layers: how often a layer was fetched.
    """

    seconds: float
    fetched_bytes: int
    fetched_layers: int


@dataclass
class Watch:
    """Sees a run from outside: tokens and rounds by its events; disk and memory by a thread that looks at them."""

    folder: Path
    tokens: Counter[Stage] = field(default_factory=Counter)
    rounds: list[RoundCost] = field(default_factory=list)
    fetches: Fetches = field(default_factory=Fetches)
    scratch_bytes: int = 0
    measure_bytes: int = 0
    _stage: Stage = Stage.DENSE
    _start: RoundCost = RoundCost(0.0, 0, 0)
    _resident_bytes: int = 0

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        match event:
            case StageStarted(stage=stage):
                self._stage = stage
                self._resident_bytes = _resident_bytes()
                if stage == Stage.PRIOR:
                    self._start = self._now()
            case TokensDone(tokens=tokens, replayed=False):
                self.tokens[self._stage] += tokens
            case RoundFinished():
                pairs = zip(astuple(self._now()), astuple(self._start), strict=True)
                self.rounds.append(RoundCost(*(now - start for now, start in pairs)))

    def _now(self) -> RoundCost:
        return RoundCost(time.perf_counter(), self.fetches.num_bytes, self.fetches.num_layers)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While the thread looks."""
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        while not done.wait(LOOK_S):
            self.scratch_bytes = max(self.scratch_bytes, _scratch_bytes(self.folder))
            before, now = self._resident_bytes, _resident_bytes()
            if self._stage == Stage.MEASURE:
                self.measure_bytes = max(self.measure_bytes, now - before)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _scratch_bytes(folder: Path) -> int:
    """Sizes of all files in a folder that are not a checkpoint's."""
    total = 0
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in CHECKPOINT]
        for name in files:
            with suppress(FileNotFoundError):  # it has just been removed
                total += Path(path, name).stat().st_size
    return total
