"""What a student is trained on, and from which teacher: checked before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.data import Schedule, plan_schedule, windows_wanted
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.input_limits import check_positions, check_tokens, start_token
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.lookup import declared_family, find_source
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.model.storage.devices import find_device
from bonsai_core.registry.registry import Registry
from bonsai_core.sources import Text, evaluation_windows, load_text, training_windows

NARROW_NAMES = ("builtin", "wikitext2")
SMALL_TEXT = 1_000_000
"""Tokens. Published recoveries that do not make models worse elsewhere take tens of millions, of many kinds."""
CHARACTERS_PER_TOKEN = 6
"""More than in ordinary text, so that enough of it is read."""
MANY_EPOCHS = 4
"""Up to this many passes, text is about as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""
MUCH_TEXT = "--dataset c4 --tokens 10000000"
TRAINING_COST = 3
"""Forward passes that one forward and backward pass takes the time of."""


@dataclass(frozen=True)
class Curriculum:
    """What is trained on, and from which teacher; the same before pruning and after.

    Attributes:
        teacher: name of the model to distil from, or None.
        model_config: the student's configuration.
        texts: to train on, and to evaluate on.
        evaluation_NL: windows for the curve, int64.
    """

    config: AdaptConfig
    teacher: str | None
    family: Family | None
    model_config: Any
    tokenizer: Any
    texts: tuple[Text, Text]
    schedule: Schedule
    evaluation_NL: NDArray[np.int64]

    @property
    def teacher_shape(self) -> tuple[int, int, int] | None:
        """Windows, predicted tokens and log-probabilities per token to store; None where nothing is stored."""
        if self.teacher is None or not self.config.teacher_top_k:
            return None
        windows, length = self.schedule.windows_WL.shape
        return windows, length - 1, self.config.teacher_top_k

    @property
    def precision(self) -> str:
        """The type of the passes."""
        return self.config.precision_on(find_device(self.config.device))

    @property
    def tokens(self) -> int:
        """Tokens to train on."""
        return len(self.schedule.order_S) * int(self.schedule.windows_WL.shape[1])

    @property
    def teacher_tokens(self) -> int:
        """Tokens that go through the teacher before the training."""
        if self.teacher is None:
            return 0
        return int(self.evaluation_NL.size) + (int(self.schedule.windows_WL.size) if self.teacher_shape else 0)

    @property
    def curve_steps(self) -> tuple[int, ...]:
        """Steps after which perplexity is measured; 0 and the last are among them."""
        steps, points = self.schedule.steps, self.config.evaluations
        return (0, *sorted({math.ceil(steps * point / points) for point in range(1, points + 1)}))

    @property
    def forward_tokens(self) -> int:
        """Tokens of all forward passes; one of the training counts as `TRAINING_COST`."""
        return self.teacher_tokens + TRAINING_COST * self.tokens + (len(self.curve_steps) + 1) * self.evaluation_NL.size

    def scratch_bytes(self) -> int:
        """Disk space for what the teacher says."""
        return StoredTeacher.num_bytes(self.teacher_shape, self.model_config.vocab_size) if self.teacher_shape else 0


def plan_curriculum(
    config: AdaptConfig,
    registry: Registry,
    source: str,
    student: Any,
    dense: str | None,
    run_texts: tuple[str, str | None],
    slicer: str | None,
    warn: Callable[[str], None],
) -> Curriculum:
    """Check settings and texts against a model, or against the dense one that it will be pruned from.

    Args:
        registry: the declared families.
        source: the model's directory or hub id.
        student: its configuration.
        dense: the teacher if the settings name none.
        run_texts: names of the texts for calibration and evaluation, if the settings name none.
        slicer: of the run that prunes it; None where no run is known.

    Raises:
        BonsaiError: there is no such device or text, or something does not fit.
    """
    if find_device(config.device).index:
        raise BonsaiError(
            f"Training takes the first GPU that it sees: give --device cuda, and hide the others with "
            f"CUDA_VISIBLE_DEVICES={find_device(config.device).index}."
        )
    family = declared_family(student, registry, slicer, warn)
    _check_method(config, family, warn)
    teacher = _teacher(config, dense, warn)
    if teacher is not None:
        try:
            find_source(teacher)
        except BonsaiError as error:
            raise BonsaiError(f"The teacher cannot be loaded: {error} --teacher names another, or none.") from None
        k, vocabulary = config.teacher_top_k, student.vocab_size
        if k >= vocabulary:
            raise BonsaiError(f"--teacher-top-k {k} is not below the vocabulary of {vocabulary:,}; 0 stores all.")
    tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
    dataset = config.dataset or run_texts[0]
    eval_dataset = config.eval_dataset or (None if config.dataset else run_texts[1])
    texts = load_text(dataset, eval_dataset, characters=CHARACTERS_PER_TOKEN * config.tokens_wanted)
    start = start_token(family, tokenizer)
    windows_WL = training_windows(
        texts[0],
        tokenizer,
        num_windows=windows_wanted(config),
        sequence_length=config.sequence_length,
        seed=config.seed,
        start=start,
    )
    _warn_of_text(texts[0], windows_WL.size, warn)
    evaluation_NL = evaluation_windows(texts[1], tokenizer, config, warn, start)
    check_tokens(student, tokenizer, (windows_WL, evaluation_NL))
    check_positions(student, family, max(config.sequence_length, config.eval_sequence_length), warn)
    schedule = plan_schedule(windows_WL, config)
    if schedule.epochs > MANY_EPOCHS:
        warn(
            f"Every window of the text is trained on {schedule.epochs:.1f} times. More text is better than more passes."
        )
    return Curriculum(config, teacher, family, student, tokenizer, texts, schedule, evaluation_NL)


def _warn_of_text(text: Text, tokens: int, warn: Callable[[str], None]) -> None:
    """Warn of a narrow or short text; of a large one, `tokens` are only those that are needed."""
    narrow = all(part.name in NARROW_NAMES for part in text.texts)
    if not narrow and (tokens >= SMALL_TEXT or text.is_large):
        return
    size = f"{text.num_characters:,} characters" if text.is_large else f"{tokens:,} tokens"
    warn(
        f"The text to adapt on is {'narrow' if narrow else 'short'} ({text.name}, {size}). "
        f"Models get better on such text and often worse elsewhere. For general use give more, of many kinds "
        f"({MUCH_TEXT}, or your own), and compare before and after with: bonsai eval MODEL --tasks ..."
    )


def _teacher(config: AdaptConfig, dense: str | None, warn: Callable[[str], None]) -> str | None:
    if not config.distils:
        return None
    teacher = find_provenance(config.teacher).source if config.teacher else dense
    if teacher is None:
        warn(f"{config.model} was not pruned by Bonsai, so there is no teacher: --teacher MODEL names one.")
        if not config.lm_weight:
            raise BonsaiError("Without a teacher and with lm_weight 0 there is nothing to learn. Name a --teacher.")
    return teacher


def _check_method(config: AdaptConfig, family: Family | None, warn: Callable[[str], None]) -> None:
    """Refuse what would otherwise fail only once the teacher has run."""
    experts = family is not None and family.experts is not None
    if config.method == "lora" and config.lora_dropout and experts:
        raise BonsaiError("Low-rank updates of experts have no dropout: set --lora-dropout 0.")
    if config.method == "scales" and family is None:
        raise BonsaiError("--method scales needs a declared model family (bonsai families). Use lora or full.")
    if config.shard and family is None:
        raise BonsaiError(
            "--shard needs a declared model family (bonsai families): where a pass may leave weights out, processes "
            "would wait for each other's gradients. Leave --shard out."
        )
    if config.method == "scales" and experts:
        warn("Experts get no scales: of this model only those of attention and of ordinary MLPs are trained.")
