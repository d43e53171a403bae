"""The settings of an evaluation: which models, measured on what, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from bonsai_core.settings.common import LoadingSettings
from bonsai_core.settings.groups import FIRST, MACHINE, MODEL, SPEED, TASKS, TEXT
from bonsai_core.settings.names import Usable
from bonsai_core.settings.types import Positive, names_split

if TYPE_CHECKING:
    from bonsai_core.evaluation.speed import Generations


class EvalConfig(LoadingSettings):
    """The settings of an evaluation. The field descriptions are the command line's help."""

    models: Annotated[tuple[Usable[str], ...], Field(min_length=1)] = Field(
        description="Run directories, checkpoints, Hugging Face ids or 'demo'.",
        json_schema_extra=MODEL | FIRST,
    )
    dataset: Usable[str] = Field(
        "builtin",
        description="Text for the perplexity, named as for `bonsai run --eval-dataset`.",
        json_schema_extra=TEXT | FIRST,
    )
    dense: Usable[str] = Field(
        "auto",
        description="The dense model beside them: auto (what they were pruned from), none, or a name.",
        json_schema_extra=MODEL | FIRST,
    )
    tasks: Annotated[tuple[Usable[str], ...], BeforeValidator(names_split)] = Field(
        (),
        description="Multiple-choice questions, as A.jsonl,B.jsonl (rows of question, choices, gold), or tasks of "
        "lm-evaluation-harness by name (bonsai-prune[lm-eval]).",
        json_schema_extra=TASKS | FIRST,
    )
    limit: Positive | None = Field(
        None,
        description="Number of questions of each task, drawn at random from a file. Left out: all.",
        json_schema_extra=TASKS,
    )
    include_path: Usable[str] | None = Field(
        None,
        description="Folder with YAML files of your own tasks for the harness.",
        json_schema_extra=TASKS,
    )
    speed: bool = Field(
        False,
        description="Time prefill and decode side by side, and measure peak memory.",
        json_schema_extra=SPEED | FIRST,
    )
    speed_batches: Annotated[tuple[Positive, ...], BeforeValidator(names_split), Field(min_length=1)] = Field(
        (1, 8),
        description="Sequences at once, as 1,8,32.",
        json_schema_extra=SPEED,
    )
    prompt_tokens: Positive = Field(256, description="Tokens of the prompt that is timed.", json_schema_extra=SPEED)
    new_tokens: Positive = Field(32, description="Tokens that are generated after it.", json_schema_extra=SPEED)
    speed_repeats: Positive = Field(
        3, description="Times each is timed, after a warm-up; the median counts.", json_schema_extra=SPEED
    )
    batch_size: Positive = Field(8, description="Windows per forward pass.", json_schema_extra=MACHINE)

    @property
    def generations(self) -> Generations:
        """What speed and memory are measured on."""
        from bonsai_core.evaluation.speed import Generations

        return Generations(self.speed_batches, self.prompt_tokens, self.new_tokens, self.speed_repeats)
