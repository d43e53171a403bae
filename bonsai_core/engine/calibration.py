"""The texts and questions that a run calibrates on, drawn and tokenised once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.config import RunConfig
from bonsai_core.engine.methods import Methods
from bonsai_core.engine.plan import round_targets
from bonsai_core.errors import BonsaiError
from bonsai_core.model.probe import CalibrationData
from bonsai_core.sources import Text, describe_rows, draw_questions, load_metric_text, read_rows, windows_of


def calibration_windows(
    config: RunConfig, text: Text, tokenizer: Any, num_windows: int, warn: Callable[[str], None]
) -> NDArray[np.int64]:
    """int64 [draws, windows, sequence]: one draw for all rounds, or one for each."""
    draws = len(round_targets(config)) if config.resample == "fresh" else 1
    windows_NT = windows_of(
        text,
        tokenizer,
        num_windows=num_windows,
        sequence_length=config.sequence_length,
        seed=config.seed,
        what="calibration",
        warn=warn,
        draws=draws,
    )
    return windows_NT.reshape(draws, -1, config.sequence_length)


def calibration_data(
    config: RunConfig,
    methods: Methods,
    texts: tuple[Text, Text],
    tokenizer: Any,
    drawn_RNT: NDArray[np.int64],
    warn: Callable[[str], None],
) -> tuple[tuple[CalibrationData, ...], dict[str, Any] | None]:
    """What sub-models are measured on, per draw, and where it is from if it is not the calibration text."""
    reads, name = methods.metric.reads, config.metric_dataset
    if reads == "nothing" or not methods.measured:
        if name is not None:
            warn("--metric-dataset is not used: no sub-model is measured on it.")
        return tuple(CalibrationData() for _ in drawn_RNT), None
    if reads == "text":
        if name is None:
            return tuple(CalibrationData(windows_NT[: config.samples]) for windows_NT in drawn_RNT), None
        text = texts[0] if name == config.dataset else load_metric_text(name)
        if texts[1].text in text.text:
            raise BonsaiError(
                "--metric-dataset holds the evaluation text: sub-models would be chosen by what they are evaluated on."
            )
        windows_RNT = calibration_windows(config, text, tokenizer, config.samples, warn)
        return tuple(CalibrationData(windows_NT) for windows_NT in windows_RNT), dict(text.describe())
    if name is None:
        raise BonsaiError(
            f"The metric {config.metric.name!r} reads multiple-choice questions: name a .jsonl file of them with "
            f"--metric-dataset."
        )
    rows = read_rows(name)
    drawn = (
        draw_questions(rows, tokenizer, num_questions=config.samples, seed=config.seed, draw=draw, warn=warn)
        for draw in range(len(drawn_RNT))
    )
    return tuple(CalibrationData(questions=questions) for questions in drawn), dict(describe_rows(name, rows))
