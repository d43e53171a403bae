"""The settings of an evaluation: which models, measured on what, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from bonsai_core.settings.common import LoadingSettings
from bonsai_core.settings.names import Usable
from bonsai_core.settings.types import Positive, names_split

if TYPE_CHECKING:
    from bonsai_core.evaluation.speed import Generations


class EvalConfig(LoadingSettings):
    """The settings of an evaluation. The field descriptions are the command line's help."""

    models: Annotated[tuple[Usable[str], ...], Field(min_length=1)] = Field(
        description="Run directories, checkpoints, Hugging Face ids or 'demo'."
    )
    dataset: Usable[str] = Field(
        "builtin", description="Text for the perplexity, named as for `bonsai run --eval-dataset`."
    )
    dense: Usable[str] = Field(
        "auto", description="The dense model beside them: auto (what they were pruned from), none, or a name."
    )
    tasks: Annotated[tuple[Usable[str], ...], BeforeValidator(names_split)] = Field(
        (),
        description="Multiple-choice questions, as A.jsonl,B.jsonl (rows of question, choices, gold), or tasks of "
        "lm-evaluation-harness by name (bonsai-prune[lm-eval]).",
    )
    limit: Positive | None = Field(
        None, description="Number of questions of each task, drawn at random from a file. Left out: all."
    )
    include_path: Usable[str] | None = Field(
        None, description="Folder with YAML files of your own tasks for the harness."
    )
    speed: bool = Field(False, description="Time prefill and decode side by side, and measure peak memory.")
    speed_batches: Annotated[tuple[Positive, ...], BeforeValidator(names_split), Field(min_length=1)] = Field(
        (1, 8), description="Sequences at once, as 1,8,32."
    )
    prompt_tokens: Positive = Field(256, description="Tokens of the prompt that is timed.")
    new_tokens: Positive = Field(32, description="Tokens that are generated after it.")
    speed_repeats: Positive = Field(3, description="Times each is timed, after a warm-up; the median counts.")
    batch_size: Positive = Field(8, description="Windows per forward pass.")

    @property
    def generations(self) -> Generations:
        """What speed and memory are measured on."""
        from bonsai_core.evaluation.speed import Generations

        return Generations(self.speed_batches, self.prompt_tokens, self.new_tokens, self.speed_repeats)
