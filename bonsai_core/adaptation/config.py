"""The configuration of an adaptation: one frozen model for Python, recipes and the command line alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from bonsai_core.config import validated
from bonsai_core.settings.names import Usable
from bonsai_core.settings.schema import Schema
from bonsai_core.settings.types import Length, NotNegative, Positive, Seed

if TYPE_CHECKING:
    import torch

Weight = Annotated[float, Field(ge=0)]
LARGEST_RANK = 16_384
"""Of an update; the width of the widest models, beyond which a rank adds nothing but memory."""
LEARNING_RATES = {"lora": 3e-4, "full": 1e-4, "scales": 1e-2}


class AdaptConfig(Schema):
    """Everything that decides the result of an adaptation. The field descriptions are the command line's help."""

    model: Usable[str] = Field(description="A run directory, a checkpoint, a Hugging Face id or 'demo'.")
    method: Literal["lora", "full", "scales"] = Field(
        "lora",
        description="What is trained: low-rank updates of all linears, all weights, or one scale for each channel that "
        "an attention or MLP puts out from.",
    )
    dataset: Usable[str] | None = Field(
        None, description="Text to adapt on, named as for `bonsai run`. Left out: what the model was pruned on."
    )
    eval_dataset: Usable[str] | None = Field(
        None,
        description="Text for the curve of perplexity. Left out: the data set's own evaluation part, or a file's last "
        "fifth.",
    )
    teacher: Usable[str] | None = Field(
        None, description="The dense model to distil from, or none. Left out: the model that was pruned."
    )
    teacher_top_k: NotNegative = Field(
        64,
        description="So many of the teacher's log-probabilities are stored per token, the others as one bucket, before "
        "training begins; 0: all, and the teacher stays in memory.",
    )
    steps: Positive | None = Field(None, description="Optimiser steps. Left out: as --tokens says, or one epoch.")
    tokens: Annotated[int, Field(gt=0, le=10**12)] | None = Field(
        None, description="Tokens to train on, rounded up to whole steps."
    )
    batch_size: Positive = Field(8, description="Windows per optimiser step.")
    micro_batch_size: Positive | None = Field(
        None, description="Windows per forward and backward pass, a divisor of --batch-size; fewer need less memory."
    )
    sequence_length: Length = Field(512, description="Tokens per window.")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Highest learning rate. Left out: 3e-4 (lora), 1e-4 (full), 1e-2 (scales)."
    )
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(
        0.05, description="Fraction of the steps in which the learning rate rises; it falls as a cosine afterwards."
    )
    weight_decay: Weight = Field(0.0, description="AdamW's decoupled weight decay.")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Gradients are clipped to this norm.")
    lm_weight: Weight = Field(1.0, description="Weight of the language-model loss, nats per token.")
    kl_weight: Weight = Field(1.0, description="Weight of KL(teacher || student), nats per token.")
    hidden_weight: Weight = Field(
        0.0,
        description="Weight of the squared differences of hidden states: mean over their elements, summed over layers.",
    )
    lora_rank: Annotated[int, Field(gt=0, le=LARGEST_RANK)] = Field(64, description="Rank of the updates.")
    lora_alpha: Positive | None = Field(None, description="Updates are scaled by alpha / rank. Left out: 2 x rank.")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout before the updates.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the passes, the teacher's too; what is trained is float32. auto: bfloat16 on CUDA, else "
        "float32.",
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them.")
    evaluations: Positive = Field(8, description="Points of the curve after the first.")
    eval_samples: Positive = Field(8, description="Evaluation windows, from the start of the text.")
    eval_sequence_length: Length = Field(512, description="Tokens per evaluation window.")
    save_minutes: Annotated[float, Field(ge=0)] = Field(
        2.0,
        description="At least so long between two saved states, longer where they take long to write; 0: every step.",
    )
    seed: Seed = Field(0, description="Seed of every random draw.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps ...")
    trust_remote_code: bool = Field(False, description="Allow modeling code that comes with the model.")
    out: Usable[Path] | None = Field(
        None, description="Directory; left out: `adapted` in the run directory, or runs/NAME."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> AdaptConfig:
        if self.steps is not None and self.tokens is not None:
            raise ValueError("steps or tokens, not both: one says how long to train")
        if self.batch_size % self.windows_per_pass:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if not (self.lm_weight or self.distils):
            raise ValueError("nothing to learn: lm_weight is 0 and so is every other weight")
        if self.hidden_weight and self.teacher_top_k:
            raise ValueError("hidden_weight compares hidden states, which are not stored: set teacher_top_k 0 too")
        return self

    @classmethod
    def from_mapping(cls, values: dict[str, Any], origin: str) -> AdaptConfig:
        """A configuration from parsed YAML or options.

        Raises:
            BonsaiError: a field is unknown or has a bad value; `origin` says where it came from.
        """
        return validated(cls, values, origin)

    @property
    def windows_per_pass(self) -> int:
        """Windows per forward and backward pass."""
        return self.micro_batch_size or self.batch_size

    @property
    def fewer_windows_per_pass(self) -> int:
        """The largest divisor of the batch size below `windows_per_pass`."""
        return max(n for n in range(1, max(2, self.windows_per_pass)) if self.batch_size % n == 0)

    @property
    def tokens_wanted(self) -> int:
        """To train on, as far as the settings say it; else 0."""
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

    def decisive(self) -> dict[str, Any]:
        """All settings that decide the result, as plain data; those left out change it by rounding only."""
        return self.model_dump(
            mode="json", exclude={"out", "save_minutes", "micro_batch_size", "gradient_checkpointing"}
        )

    def to_yaml(self) -> str:
        """The configuration as a recipe that reproduces it."""
        return yaml.safe_dump(json.loads(self.model_dump_json()), sort_keys=False)
