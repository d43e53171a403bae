"""Everything that must hold before a teacher or a student is loaded: names, texts, windows, options."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.data import Schedule, plan_course, windows_wanted
from bonsai_core.adaptation.teacher import StoredTeacher, check_top_k
from bonsai_core.checkpoint import ParentFiles
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.checked_config import fit_to_files
from bonsai_core.model.loading.input_limits import check_positions, check_tokens, start_token
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.lookup import declared_family, find_source, model_config
from bonsai_core.model.loading.parent_files import find_parent_files
from bonsai_core.model.loading.provenance import Origin, find_origin
from bonsai_core.model.storage.devices import find_device
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import free_path
from bonsai_core.sources import Text, evaluation_windows, load_text, training_windows

NARROW_NAMES = ("builtin", "wikitext2")
SMALL_TEXT = 1_000_000
"""Tokens; published recoveries that do not make models worse elsewhere take tens of millions of many kinds."""
CHARACTERS_PER_TOKEN = 6
"""More than tokenizers make of ordinary text, so that there is enough of it."""
MANY_EPOCHS = 4
"""Passes over the same text up to which repeating it is about as good as new text (Muennighoff et al. 2023,
arXiv:2305.16264)."""
MUCH_TEXT = "--dataset c4 --tokens 10000000"
TRAINING_COST = 3
"""Passes forward that one pass forward and backward is worth."""


@dataclass(frozen=True)
class Curriculum:
    """What is trained on, and from whom; the same before pruning and after.

    Attributes:
        teacher: name of the model to distil from, or None.
        model_config: the student's configuration.
        evaluation_NL: windows for the curve, int64.
    """

    config: AdaptConfig
    teacher: str | None
    family: Family | None
    model_config: Any
    tokenizer: Any
    texts: tuple[Text, Text]
    course: Schedule
    evaluation_NL: NDArray[np.int64]

    @property
    def teacher_shape(self) -> tuple[int, int, int] | None:
        """Windows, predicted tokens and log-probabilities per token to store; None where nothing is stored."""
        if self.teacher is None or not self.config.teacher_top_k:
            return None
        windows, length = self.course.windows_WL.shape
        return windows, length - 1, self.config.teacher_top_k

    @property
    def precision(self) -> str:
        """The type of the passes."""
        return self.config.precision_on(find_device(self.config.device))

    @property
    def tokens(self) -> int:
        """To train on."""
        return len(self.course.order_S) * int(self.course.windows_WL.shape[1])

    @property
    def teacher_tokens(self) -> int:
        """That go through the teacher before the training."""
        if self.teacher is None:
            return 0
        return int(self.evaluation_NL.size) + (int(self.course.windows_WL.size) if self.teacher_shape else 0)

    @property
    def curve_steps(self) -> tuple[int, ...]:
        """Steps after which perplexity is measured; 0 and the last are among them."""
        steps, points = self.course.steps, self.config.evaluations
        return (0, *sorted({math.ceil(steps * point / points) for point in range(1, points + 1)}))

    @property
    def forward_tokens(self) -> int:
        """The work ahead."""
        return self.teacher_tokens + TRAINING_COST * self.tokens + (len(self.curve_steps) + 1) * self.evaluation_NL.size

    def scratch_bytes(self) -> int:
        """Of what the teacher says, on disk."""
        return StoredTeacher.num_bytes(self.teacher_shape, self.model_config.vocab_size) if self.teacher_shape else 0


@dataclass(frozen=True)
class AdaptWorkspace(Curriculum):
    """What an adaptation works with; no weights yet.

    Attributes:
        parent_files: of the student, what the adapted checkpoint takes over.
        layers: of the teacher, those that the student still has; None where hidden states are not compared.
    """

    origin: Origin
    parent_files: ParentFiles
    layers: list[int] | None


def open_adaptation(config: AdaptConfig, registry: Registry, warn: Callable[[str], None]) -> AdaptWorkspace:
    """Find and check everything; nothing is written.

    Raises:
        BonsaiError: anything is missing or does not fit together.
    """
    origin = find_origin(config.model)
    source = find_source(origin.source)
    as_read = model_config(source, config.trust_remote_code)
    student = fit_to_files(as_read, source, config.trust_remote_code, warn)
    if getattr(student, "quantization_config", None):
        raise BonsaiError(f"{config.model} is quantised, and its weights cannot be trained. Give the model it is of.")
    texts = (origin.setting("dataset") or "builtin", origin.setting("eval_dataset"))
    curriculum = plan_curriculum(config, registry, source, student, origin.dense, texts, origin.setting("slicer"), warn)
    layers = _layers(config, origin, curriculum.teacher, student)
    files = find_parent_files(source, as_read, curriculum.tokenizer)
    return AdaptWorkspace(**vars(curriculum), origin=origin, parent_files=files, layers=layers)


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
        registry: where its family may be declared.
        source: where it is.
        student: its configuration.
        dense: the teacher where none is named; None where there is none.
        run_texts: names of the texts for calibration and evaluation, where none are named.
        slicer: what the run goes by that prunes it; None where no run is known.

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
        check_top_k(config.teacher_top_k, student.vocab_size)
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
    course = plan_course(windows_WL, config)
    if course.epochs > MANY_EPOCHS:
        warn(f"Every window of the text is trained on {course.epochs:.1f} times. More text is better than more passes.")
    return Curriculum(config, teacher, family, student, tokenizer, texts, course, evaluation_NL)


def default_path(origin: Origin) -> Path:
    """Where an adaptation goes that nobody named a place for."""
    if origin.run is not None:
        return free_path(origin.run, "adapted")
    return free_path(Path("runs"), f"{Path(origin.source).name}-adapted")


def _warn_of_text(text: Text, tokens: int, warn: Callable[[str], None]) -> None:
    """Of a large text, `tokens` are only those that are needed."""
    narrow = text.name in NARROW_NAMES
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
    teacher = find_origin(config.teacher).source if config.teacher else dense
    if teacher is None:
        warn(f"{config.model} was not pruned by Bonsai, so there is no teacher: --teacher MODEL names one.")
        if not config.lm_weight:
            raise BonsaiError("Without a teacher and with lm_weight 0 there is nothing to learn. Name a --teacher.")
    return teacher


def _check_method(config: AdaptConfig, family: Family | None, warn: Callable[[str], None]) -> None:
    """Refuse what would fail only after the teacher's work."""
    experts = family is not None and family.experts is not None
    if config.method == "lora" and config.lora_dropout and experts:
        raise BonsaiError("Low-rank updates of experts have no dropout: set --lora-dropout 0.")
    if config.method == "scales" and family is None:
        raise BonsaiError("--method scales needs a declared model family (bonsai families). Use lora or full.")
    if config.method == "scales" and experts:
        warn("Experts get no scales: of this model only those of attention and of ordinary MLPs are trained.")


def _layers(config: AdaptConfig, origin: Origin, teacher: str | None, student: Any) -> list[int] | None:
    """Which of the teacher's layers the student's are, if that matters."""
    if teacher is None or not config.hidden_weight:
        return None
    theirs = model_config(find_source(teacher), config.trust_remote_code)
    layers = origin.layers() or list(range(student.num_hidden_layers))
    fits = len(layers) == student.num_hidden_layers and max(layers) < theirs.num_hidden_layers
    if not fits or theirs.hidden_size != student.hidden_size:
        raise BonsaiError(
            f"The hidden states of {config.model} ({student.num_hidden_layers} layers of {student.hidden_size}, once "
            f"numbered {layers}) cannot be compared with those of the teacher {teacher} ({theirs.num_hidden_layers} "
            f"layers of {theirs.hidden_size}). Give --hidden-weight 0."
        )
    return layers
