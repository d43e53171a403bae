"""Live progress of a run: which round, which sub-model, the metric so far, and about how long it will take."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from bonsai_core import hookimpl
from bonsai_core.cli.printing import print_note
from bonsai_core.display.printable import visible
from bonsai_core.events import (
    AdaptationStarted,
    CurvePoint,
    EvaluationStarted,
    Event,
    RoundFinished,
    RunStarted,
    Stage,
    StageStarted,
    StepDone,
    SubmodelMeasured,
    TokensDone,
    Warned,
)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_bar(console: Console) -> Progress:
    """A display for bars whose field `left` says how much time is left."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[left]}"),
        console=console,
        transient=True,
    )


UNCOUNTED = (Stage.HARNESS, Stage.MEMORY, Stage.LATENCY, Stage.VERIFY, Stage.EXPORT, Stage.PUSH)
"""Stages whose progress is not counted in tokens."""


class RunBar:
    """A display's bar for one run over its forward tokens: what it is doing, and how much time is left."""

    def __init__(self, display: Progress) -> None:
        self.rounds = 0
        self._display = display
        self._task: TaskID = display.add_task("loading the model", total=None, left="")
        self._start = 0.0
        self._live_tokens = 0
        self._tokens_left = 0
        self._total: int | None = None
        self._paused_at: float | None = None

    def follow(self, event: Event) -> None:
        """Show what an event says."""
        match event:
            case RunStarted():
                self.rounds = event.num_rounds
                self._begin(event.forward_tokens)
            case AdaptationStarted() | EvaluationStarted():
                self._begin(event.forward_tokens)
            case StageStarted():
                where = f"round {event.round} of {self.rounds}: " if event.round else ""
                self._display.update(self._task, description=visible(where + event.text))
                self._pause(event.stage in UNCOUNTED)
            case TokensDone():
                self._advance(event)
            case StepDone():
                parts = ", ".join(f"{name} {value:.3f}" for name, value in event.losses.items() if value)
                self._display.update(self._task, description=f"step {event.step} of {event.steps}: {parts}")
            case SubmodelMeasured():
                value = "not finite" if event.value is None else f"{event.value:.4g}"
                self._display.update(
                    self._task,
                    description=f"round {event.round} of {self.rounds}: sub-model {event.index + 1} of {event.total}, "
                    f"{visible(event.metric)} {value}",
                )

    def remove(self) -> None:
        """Remove the bar from the display."""
        self._display.remove_task(self._task)

    def _begin(self, forward_tokens: int) -> None:
        self._start = time.monotonic()
        self._live_tokens, self._tokens_left, self._total = 0, forward_tokens, forward_tokens
        self._display.update(self._task, completed=0, total=forward_tokens, left="")

    def _pause(self, uncounted: bool) -> None:
        """A stage that is not counted in tokens has no known end, and its time says nothing about the other stages."""
        now = time.monotonic()
        if self._paused_at is not None:
            self._start += now - self._paused_at
        self._paused_at = now if uncounted else None
        (task,) = (task for task in self._display.tasks if task.id == self._task)
        task.total = None if uncounted else self._total
        if uncounted:
            self._display.update(self._task, left="")

    def _advance(self, event: TokensDone) -> None:
        self._tokens_left = max(0, self._tokens_left - event.tokens)
        if not event.replayed:
            self._live_tokens += event.tokens
        left = ""
        if self._live_tokens:
            pace = (time.monotonic() - self._start) / self._live_tokens
            left = f"about {duration(pace * self._tokens_left)} left"
        self._display.update(self._task, advance=event.tokens, left=left)


class ProgressObserver:
    """An observer that draws a run's bar and prints a line per round.

    Attributes:
        directory: the run directory, once the run has started.
        safe: a sentence: what is not lost when the user stops it.
    """

    def __init__(self, console: Console) -> None:
        self.directory: Path | None = None
        self.safe = "Everything measured so far is safe."
        self._console = console
        self._display = progress_bar(console)
        self._bar = RunBar(self._display)

    def __enter__(self) -> ProgressObserver:
        self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._display.stop()

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        self._bar.follow(event)
        match event:
            case RunStarted():
                self._announce(event)
            case RoundFinished():
                tau = "" if event.kendall_tau is None else f", out-of-fold Kendall tau {event.kendall_tau:.2f}"
                kl = "" if event.held_out_kl is None else f", held-out KL {event.held_out_kl:.3f}"
                kl += "" if event.guard_kl is None else f", guard KL {event.guard_kl:.3f}"
                perplexity = "" if event.perplexity is None else f", perplexity {event.perplexity:.2f}"
                self._console.print(
                    f"round {event.round} of {self._bar.rounds}: {event.units_removed} units removed, "
                    f"sparsity {event.sparsity:.2%}{tau}{kl}{perplexity}",
                    highlight=False,
                )
            case AdaptationStarted():
                self._announce_adaptation(event)
            case CurvePoint():
                perplexity = "not finite" if event.perplexity is None else f"{event.perplexity:.2f}"
                self._console.print(f"step {event.step} of {event.steps}: perplexity {perplexity}", highlight=False)
            case Warned():
                print_note(self._console, event.text)

    def _announce(self, event: RunStarted) -> None:
        self.directory = event.directory
        rounds = f"{event.num_rounds} round{'s' if event.num_rounds > 1 else ''}"
        if event.num_submodels:
            rounds += f" of {event.num_submodels} sub-models"
        self._console.print(
            Text.assemble(
                "Pruning ",
                (visible(event.model), "bold"),
                f" to {event.goal} in {rounds}, into {visible(event.directory)}\n",
                f"The result will load in {event.runtimes}.",
            ),
            soft_wrap=True,
        )

    def _announce_adaptation(self, event: AdaptationStarted) -> None:
        self.directory = self.directory or event.directory
        self.safe = "Everything up to the last saved state is safe."
        teacher = (", distilled from ", (visible(event.teacher), "bold")) if event.teacher else ()
        self._console.print(
            Text.assemble(
                "Adapting ",
                (visible(event.model), "bold"),
                f" ({event.method}) in {event.steps:,} steps on {event.tokens:,} tokens",
                *teacher,
                f", into {visible(event.directory)}",
            ),
            soft_wrap=True,
        )
