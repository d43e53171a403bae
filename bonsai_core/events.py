"""What observers receive while a run, an adaptation or an evaluation goes on.

A public module: plugins may import it. Later versions may add events, and fields with defaults to existing ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Stage(StrEnum):
    """What a run, an adaptation or an evaluation is doing."""

    DENSE = "dense"
    PRIOR = "prior"
    MEASURE = "measure"
    SELECT = "select"
    SEARCH = "search"
    REPAIR = "repair"
    TEACHER = "teacher"
    TRAIN = "train"
    EVALUATE = "evaluate"
    HARNESS = "harness"
    MEMORY = "memory"
    SAVE = "save"
    LATENCY = "latency"
    VERIFY = "verify"
    EXPORT = "export"
    PUSH = "push"


@dataclass(frozen=True)
class Event:
    """Base of all events; observers switch on the type and ignore what they do not know."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is to come, and what it takes, so that the time left can be told.

    Attributes:
        round: as in `StageStarted`.
        work: about how many tokens' forward passes through the dense model take as long.
        tokens: those of its forward passes, as `TokensDone` counts them; 0 where it counts none.
        seconds: about how long it takes beside that, for reading and writing files.
        last_step: the event of the journal that it ends with.
    """

    stage: Stage
    round: int
    work: float
    tokens: int
    seconds: float
    last_step: str


@dataclass(frozen=True)
class RunStarted(Event):
    """The settings are valid, the model is loaded.

    `forward_tokens` are those of the whole run, replayed ones too; `runtimes` says what will load the checkpoint.
    `sparsity` is the fraction to be removed of what the budget counts, and `goal` the budget in words. `stages` are
    those to come, in order, finished ones too.
    """

    directory: Path
    model: str
    num_rounds: int
    num_submodels: int
    sparsity: float
    forward_tokens: int
    runtimes: str
    goal: str = ""
    stages: tuple[PlannedStage, ...] = ()


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins; `text` names it for people, and `round` is 0 outside of rounds."""

    stage: Stage
    round: int
    text: str


@dataclass(frozen=True)
class TokensDone(Event):
    """`tokens` more tokens went through the model, or were already in the journal (`replayed`)."""

    tokens: int
    replayed: bool = False


@dataclass(frozen=True)
class SubmodelMeasured(Event):
    """Sub-model `index` (from 0) of `total` in this round is in the journal; value None: not finite, dropped."""

    round: int
    index: int
    total: int
    metric: str
    value: float | None


@dataclass(frozen=True)
class RoundFinished(Event):
    """A round is done; `perplexity` and KL to the dense model, in nats per token, are None where not measured."""

    round: int
    sparsity: float
    kendall_tau: float | None
    units_removed: int
    perplexity: float | None = None
    held_out_kl: float | None = None
    guard_kl: float | None = None


@dataclass(frozen=True)
class Journaled(Event):
    """An event became durable in the run's journal; `count` events are in it now."""

    key: str
    count: int


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know but that does not stop the run."""

    text: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The report is written."""

    directory: Path


@dataclass(frozen=True)
class EvaluationStarted(Event):
    """Models and texts are there; `forward_tokens` are those to come, without what is timed."""

    forward_tokens: int


@dataclass(frozen=True)
class AdaptationStarted(Event):
    """The settings are valid. `forward_tokens`: those of all steps, replayed ones too; a training token counts as 3.

    `stages` are those to come, in order, finished ones too.
    """

    directory: Path
    model: str
    method: str
    teacher: str | None
    steps: int
    tokens: int
    forward_tokens: int
    stages: tuple[PlannedStage, ...] = ()


@dataclass(frozen=True)
class StepDone(Event):
    """An optimiser step of an adaptation; `losses` has ``loss``, and its parts ``lm``, ``kl`` and ``hidden``."""

    step: int
    steps: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class CurvePoint(Event):
    """Perplexity after `step` steps of an adaptation; None: not finite."""

    step: int
    steps: int
    perplexity: float | None


@dataclass(frozen=True)
class AdaptationFinished(Event):
    """The report of an adaptation is written."""

    directory: Path
