"""How much time is left: planned stages, and the pace at which those of each kind were worked through so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bonsai_core.events import (
    AdaptationStarted,
    EvaluationStarted,
    Event,
    PlannedStage,
    RunStarted,
    Stage,
    StageStarted,
    TokensDone,
)

DOUBT = 1.0
"""Stages of a kind after which its own pace weighs as much as that of all kinds."""
UNPLANNED = (Stage.HARNESS, Stage.MEMORY, Stage.EXPORT, Stage.PUSH)
"""Stages of their own that no plan has; others that it has not belong to the stage before."""
FIRST_SHARE = 0.02
"""Of the work: before it is done, the time left is not shown."""


@dataclass
class Progress:
    """How far a planned stage is.

    Attributes:
        seconds: that it took so far.
        live: tokens that went through the model.
        replayed: tokens that an earlier process put through it.
        share: of its work that is done, from 0 to 1; None while it goes on and nothing tells.
    """

    plan: PlannedStage
    seconds: float = 0.0
    live: int = 0
    replayed: int = 0
    share: float | None = 0.0

    @property
    def work(self) -> float:
        """The work that this process has to do."""
        return self.plan.work * (1 - self.replayed / self.plan.tokens if self.plan.tokens else 1)


def seconds_left(stages: Sequence[Progress]) -> float | None:
    """About how long the stages still take; None before enough is done to tell.

    The pace of a kind of stage is that of those which were worked on, where little is known with that of all kinds.
    """
    known = [stage for stage in stages if stage.share and stage.seconds and stage.work]
    done = sum((stage.share or 0) * stage.work for stage in known)
    planned = sum(stage.work for stage in stages)
    if not planned or done < FIRST_SHARE * planned:
        return None
    usual = sum(map(_working_seconds, known)) / done
    left = 0.0
    for stage in stages:
        if stage.share == 1:
            continue
        alike = [one for one in known if one.plan.stage is stage.plan.stage]
        doubt = DOUBT * stage.plan.work
        worked = sum((one.share or 0) * one.work for one in alike)
        spent = sum(map(_working_seconds, alike))
        pace = (spent + doubt * usual) / (worked + doubt) if worked + doubt else usual
        whole = pace * stage.work + stage.plan.seconds
        left += max(0.0, whole - stage.seconds) if stage.share is None else (1 - stage.share) * whole
    return left


def _working_seconds(stage: Progress) -> float:
    return max(0.0, stage.seconds - stage.plan.seconds * (stage.share or 0))


class Forecast:
    """Follows the events of a run, an adaptation or an evaluation.

    Args:
        clock: seconds, from anywhere.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stages: list[Progress] = []
        self._clock = clock
        self._now = clock()
        self._start = self._now
        self._current: int | None = None

    def follow(self, event: Event) -> None:
        """Take note of an event."""
        self._spend()
        match event:
            case RunStarted() | AdaptationStarted():
                self._begin(event.stages)
            case EvaluationStarted():
                self._begin([PlannedStage(Stage.EVALUATE, 0, event.forward_tokens, event.forward_tokens, 0.0, "")])
            case StageStarted():
                self._enter(event)
            case TokensDone():
                self._count(event)

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return self._clock() - self._start

    def left(self) -> float | None:
        """About how many seconds are left; None where that is not known."""
        self._spend()
        return None if self._current is None else seconds_left(self.stages)

    def _begin(self, plan: Sequence[PlannedStage]) -> None:
        self._current = None
        self.stages = [Progress(stage) for stage in plan]
        self._start = self._now

    def _enter(self, event: StageStarted) -> None:
        here = 0 if self._current is None else self._current
        for index in range(here, len(self.stages)):
            plan = self.stages[index].plan
            if (plan.stage, plan.round) == (event.stage, event.round) and (
                index > here or self._current is None or self._goes_on(index)
            ):
                break
        else:
            self._current = None if event.stage in UNPLANNED else self._current
            return
        for stage in self.stages[:index]:
            stage.share = 1.0
        self._current = index
        if not self.stages[index].plan.tokens:
            self.stages[index].share = None

    def _goes_on(self, index: int) -> bool:
        """Whether a stage that is announced again is the same one."""
        return not any(
            (one.plan.stage, one.plan.round) == (self.stages[index].plan.stage, self.stages[index].plan.round)
            for one in self.stages[index + 1 :]
        )

    def _count(self, event: TokensDone) -> None:
        if self._current is None:
            return
        stage = self.stages[self._current]
        tokens = min(event.tokens, stage.plan.tokens - stage.live - stage.replayed)
        if event.replayed:
            stage.replayed += tokens
        else:
            stage.live += tokens
        if left := stage.plan.tokens - stage.replayed:
            stage.share = stage.live / left

    def _spend(self) -> None:
        """Add the time since the last event to the stage that it was spent in."""
        now = self._clock()
        if self._current is not None:
            self.stages[self._current].seconds += now - self._now
        self._now = now
