"""What a run, an adaptation or an evaluation is doing, in words, as its events tell."""

from __future__ import annotations

from bonsai_core.display.printable import visible
from bonsai_core.events import (
    AdaptationStarted,
    CurvePoint,
    Event,
    RoundFinished,
    RunStarted,
    StageStarted,
    StepDone,
    SubmodelMeasured,
)

LONGEST_TEXT = 60
"""Characters of what a stage is called."""


class Status:
    """Follows events.

    Attributes:
        rounds: of the run.
        doing: the stage, with the sub-model or the step.
        result: the best guess so far of what comes out: that of the last round, or of the last point of the curve.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.doing = "loading the model"
        self.result = ""

    def follow(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case RunStarted():
                self.rounds = event.num_rounds
            case StageStarted():
                self.doing = self._in_round(event.round, visible(event.text, most=LONGEST_TEXT))
            case SubmodelMeasured():
                value = "not finite" if event.value is None else f"{event.value:.4g}"
                what = f"sub-model {event.index + 1:,} of {event.total:,}, {visible(event.metric, most=20)} {value}"
                self.doing = self._in_round(event.round, what)
            case StepDone():
                parts = ", ".join(f"{name} {value:.3f}" for name, value in event.losses.items() if value)
                self.doing = f"step {event.step:,} of {event.steps:,}: {parts}"
            case RoundFinished():
                self.result = f"so far: {round_result(event)}"
            case CurvePoint():
                self.result = f"so far: perplexity {number(event.perplexity, '.2f')}"

    def _in_round(self, number: int, what: str) -> str:
        return f"round {number} of {self.rounds}: {what}" if number else what


def milestone(event: Event, status: Status) -> str | None:
    """The line that stays on the screen of an event; None if none does."""
    match event:
        case RunStarted():
            rounds = f"{event.num_rounds} round{'s' if event.num_rounds > 1 else ''}"
            rounds += f" of {event.num_submodels} sub-models" if event.num_submodels else ""
            where = visible(event.directory)
            return (
                f"Pruning {visible(event.model)} to {event.goal} in {rounds}, into {where}\n"
                f"The result will load in {event.runtimes}."
            )
        case AdaptationStarted():
            teacher = f", distilled from {visible(event.teacher)}" if event.teacher else ""
            return (
                f"Adapting {visible(event.model)} ({event.method}) in {event.steps:,} steps on {event.tokens:,} tokens"
                f"{teacher}, into {visible(event.directory)}"
            )
        case RoundFinished():
            tau = "" if event.kendall_tau is None else f", Kendall tau {event.kendall_tau:.2f}"
            removed = f"{event.units_removed:,} units removed"
            return f"round {event.round} of {status.rounds}: {removed}{tau}\n  {round_result(event)}"
        case CurvePoint():
            return f"step {event.step:,} of {event.steps:,}: perplexity {number(event.perplexity, '.2f')}"
    return None


def round_result(event: RoundFinished) -> str:
    """The sparsity after a round, and how the model measures."""
    return result_line(event.sparsity, event.held_out_kl, event.guard_kl, event.perplexity)


def result_line(sparsity: float, held_out_kl: float | None, guard_kl: float | None, perplexity: float | None) -> str:
    """What is known of a pruned model, in less than 70 columns; KL to the dense model is in nats per token."""
    watched = {"held-out": held_out_kl, "guard": guard_kl}
    kl = ", ".join(f"{name} {value:.3f}" for name, value in watched.items() if value is not None)
    parts = [f"sparsity {sparsity:.2%}", *([f"KL {kl}"] if kl else [])]
    return ", ".join([*parts, *([] if perplexity is None else [f"perplexity {perplexity:.2f}"])])


def number(value: float | None, style: str) -> str:
    """A number, or that it is not finite."""
    return "not finite" if value is None else f"{value:{style}}"
