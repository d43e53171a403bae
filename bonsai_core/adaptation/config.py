"""The configuration of an adaptation: one frozen model for Python, recipes and the command line alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from bonsai_core.config import RecordedSettings
from bonsai_core.settings.groups import FIRST, MACHINE, METHODS, MODEL, RESULT, TEXT, TRAINING
from bonsai_core.settings.names import Usable
from bonsai_core.settings.types import Length, NotNegative, Positive

if TYPE_CHECKING:
    import torch

Weight = Annotated[float, Field(ge=0)]
LARGEST_RANK = 16_384
"""Of an update: the width of the widest models; a higher rank only takes memory."""
LEARNING_RATES = {"lora": 3e-4, "full": 1e-4, "scales": 1e-2}


class AdaptConfig(RecordedSettings):
    """Everything that decides the result of an adaptation. The field descriptions are the command line's help."""

    TEXTS = ("dataset", "eval_dataset")
    PATHS = ("model", "teacher", *TEXTS)
    NOT_DECISIVE = RecordedSettings.NOT_DECISIVE | {
        "save_minutes",
        "micro_batch_size",
        "gradient_checkpointing",
        "shard",
    }

    model: Usable[str] = Field(
        description="A run directory, a checkpoint, a Hugging Face id or 'demo'.", json_schema_extra=MODEL | FIRST
    )
    method: Literal["lora", "full", "scales"] = Field(
        "lora",
        description="What is trained: low-rank updates of all linears, all weights, or one scale for each channel that "
        "an output projection reads.",
        json_schema_extra=METHODS | FIRST,
    )
    dataset: Usable[str] | None = Field(
        None,
        description="Text to adapt on, named as for `bonsai run`. Left out: what the model was pruned on.",
        json_schema_extra=TEXT | FIRST,
    )
    eval_dataset: Usable[str] | None = Field(
        None,
        description="Text for the curve of perplexity. Left out: the data set's own evaluation part, or a file's last "
        "fifth.",
        json_schema_extra=TEXT,
    )
    teacher: Usable[str] | None = Field(
        None,
        description="The dense model to distil from, or none. Left out: the model that was pruned.",
        json_schema_extra=METHODS | FIRST,
    )
    teacher_top_k: NotNegative = Field(
        64,
        description="Number of the teacher's log-probabilities stored per token, the others as one bucket, before "
        "training begins; 0: all, and the teacher stays in memory.",
        json_schema_extra=METHODS,
    )
    steps: Positive | None = Field(
        None,
        description="Optimiser steps. Left out: as --tokens says, or one epoch.",
        json_schema_extra=TRAINING | FIRST,
    )
    tokens: Annotated[int, Field(gt=0, le=10**12)] | None = Field(
        None,
        description="Tokens to train on, rounded up to whole steps.",
        json_schema_extra=TRAINING | FIRST,
    )
    batch_size: Positive = Field(
        8, description="Windows per optimiser step, of all processes together.", json_schema_extra=TRAINING | FIRST
    )
    micro_batch_size: Positive | None = Field(
        None,
        description="Windows per forward and backward pass, a divisor of --batch-size; fewer need less memory.",
        json_schema_extra=MACHINE,
    )
    sequence_length: Length = Field(512, description="Tokens per window.", json_schema_extra=TEXT | FIRST)
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Highest learning rate. Left out: 3e-4 (lora), 1e-4 (full), 1e-2 (scales).",
        json_schema_extra=TRAINING,
    )
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05,
        description="Fraction of the steps in which the learning rate rises; it falls as a cosine afterwards.",
        json_schema_extra=TRAINING,
    )
    weight_decay: Weight = Field(0.0, description="AdamW's decoupled weight decay.", json_schema_extra=TRAINING)
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Gradients are clipped to this norm.", json_schema_extra=TRAINING
    )
    lm_weight: Weight = Field(
        1.0, description="Weight of the language-model loss, nats per token.", json_schema_extra=METHODS
    )
    kl_weight: Weight = Field(
        1.0, description="Weight of KL(teacher || student), nats per token.", json_schema_extra=METHODS
    )
    hidden_weight: Weight = Field(
        0.0,
        description="Weight of the squared differences of hidden states: mean over their elements, summed over layers.",
        json_schema_extra=METHODS,
    )
    lora_rank: Annotated[int, Field(gt=0, le=LARGEST_RANK)] = Field(
        64, description="Rank of the updates.", json_schema_extra=METHODS | FIRST
    )
    lora_alpha: Positive | None = Field(
        None, description="Updates are scaled by alpha / rank. Left out: 2 x rank.", json_schema_extra=METHODS
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Dropout before the updates.", json_schema_extra=METHODS
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the passes, the teacher's too; what is trained is float32. auto: bfloat16 on CUDA, else "
        "float32.",
        json_schema_extra=MACHINE,
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them.", json_schema_extra=MACHINE
    )
    shard: bool = Field(
        False,
        description="Spread weights, gradients and the optimiser's state over the processes of a launcher (FSDP2); "
        "with --method full.",
        json_schema_extra=MACHINE,
    )
    evaluations: Positive = Field(8, description="Points of the curve after the first.", json_schema_extra=RESULT)
    save_minutes: Annotated[float, Field(ge=0)] = Field(
        2.0,
        description="Minimum time between two saved states, longer where they take long to write; 0: every step.",
        json_schema_extra=RESULT,
    )
    out: Usable[Path] | None = Field(
        None,
        description="Directory; left out: `adapted` in the run directory, or runs/NAME.",
        json_schema_extra=RESULT | FIRST,
    )

    @model_validator(mode="after")
    def _fits_together(self) -> AdaptConfig:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("steps or tokens, not both: one says how long to train")
        if self.batch_size % (self.micro_batch_size or 1):
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if not (self.lm_weight or self.distils):
            raise ValueError("nothing to learn: lm_weight is 0 and so is every other weight")
        if self.hidden_weight and self.teacher_top_k:
            raise ValueError("hidden_weight compares hidden states, which are not stored: set teacher_top_k 0 too")
        if self.shard and self.method != "full":
            raise ValueError(
                f"shard is for method full, which needs 16 bytes per parameter; {self.method} trains few numbers, and "
                f"has the other weights whole in every process"
            )
        return self

    @property
    def tokens_wanted(self) -> int:
        """Tokens to train on; 0 where the settings do not say."""
        return self.tokens or (self.steps or 0) * self.batch_size * self.sequence_length

    @property
    def distils(self) -> bool:
        """Whether a teacher is wanted."""
        return self.teacher != "none" and bool(self.kl_weight or self.hidden_weight)

    @property
    def highest_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.learning_rate or LEARNING_RATES[self.method]

    def precision_on(self, device: torch.device) -> str:
        """The type of the passes on a device."""
        if self.precision == "auto":
            return "bfloat16" if device.type == "cuda" else "float32"
        return self.precision
