"""The texts and questions that a run calibrates on, drawn and tokenised once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.config import RunConfig
from bonsai_core.engine.guard import Guard, draw_guard
from bonsai_core.engine.methods import Methods
from bonsai_core.engine.plan import FIRST_HEAT, answers_measured, most_rounds
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.probe import CalibrationData
from bonsai_core.rundir.calibration_text import describe_repetition
from bonsai_core.sources import (
    Text,
    describe_rows,
    draw_questions,
    holds_part_of,
    load_metric_text,
    read_rows,
    windows_of,
)


@dataclass(frozen=True)
class Calibration:
    """What a run calibrates on, each part on text of its own as far as there is enough.

    Attributes:
        prior_RNT: windows for prior and compensator, int64 [draws, windows, sequence]; one draw for all rounds, or one
            for each.
        data: what sub-models are measured on, per draw.
        search: what the search and answers with and without wholes are measured on, per draw; empty where nothing is.
        held_out_NT: windows that nothing is chosen by, int64 [windows, sequence]; the same in all rounds.
        guard: text of another kind, that nothing is chosen by either; the same in all rounds.
        measured_on: where `data` is from, if it was named in the configuration.
        drawn: how much of the calibration text was drawn, of which kind it is, and how far it compresses.
    """

    prior_RNT: NDArray[np.int64]
    data: tuple[CalibrationData, ...]
    search: tuple[CalibrationData, ...]
    held_out_NT: NDArray[np.int64]
    guard: Guard
    measured_on: dict[str, Any] | None
    drawn: dict[str, Any]

    def of_rounds(self, number: int) -> Calibration:
        """With no more draws than rounds."""
        return replace(self, prior_RNT=self.prior_RNT[:number], data=self.data[:number], search=self.search[:number])

    def token_ids(self) -> Iterator[NDArray[np.int64]]:
        """All tokens, int64 of any shape."""
        yield from (self.prior_RNT, self.held_out_NT, self.guard.windows_NT)
        yield from (ids for data in (*self.data, *self.search) for ids in data.token_ids())


def draw_calibration(
    config: RunConfig,
    methods: Methods,
    texts: tuple[Text, Text],
    tokenizer: Any,
    warn: Callable[[str], None],
    start: int | None = None,
) -> Calibration:
    """Everything that a run calibrates on.

    Args:
        start: a token that every window and every question begins with.

    Raises:
        BonsaiError: a text is too short or cannot be read, or the metric's data do not fit it.
    """
    measures_text = methods.needs_submodels and methods.metric.reads == "text"
    named = config.metric_dataset not in (None, config.dataset)
    measuring = [config.samples, config.search_samples if answers_measured(config) else 0] if measures_text else [0, 0]
    assert config.prior_samples is not None  # see `suited_to_machine`
    wanted = [config.prior_samples, *([0, 0] if named else measuring)]
    drawn_RNT, held_out_NT = _windows(config, texts[0], tokenizer, sum(wanted), config.held_out_samples, warn, start)
    guard = draw_guard(config, texts[0], tokenizer, warn, start)
    drawn = _describe_drawn(config, texts[0], tokenizer, [*drawn_RNT, held_out_NT], sum(wanted))
    if repetition := describe_repetition(drawn):
        warn(repetition)
    prior_RNT, samples_RNT, search_RNT = _parts(drawn_RNT, wanted)
    measured_on = dict(texts[0].describe()) if measures_text and config.metric_dataset and not named else None
    if measures_text and named:
        text = load_metric_text(str(config.metric_dataset))
        if holds_part_of(text, texts[1]):
            raise BonsaiError(
                "--metric-dataset holds the evaluation text: sub-models would be chosen by what they are evaluated on."
            )
        measuring_RNT = _windows(config, text, tokenizer, sum(measuring), 0, warn, start)[0]
        samples_RNT, search_RNT = _parts(measuring_RNT, measuring)
        measured_on = dict(text.describe())
    if config.search and search_RNT.shape[1] < FIRST_HEAT:
        raise BonsaiError(
            f"--search needs at least {FIRST_HEAT} windows of {config.sequence_length} tokens to measure on; the text "
            f"has {search_RNT.shape[1]}. Give a longer text or a shorter --sequence-length."
        )
    data = tuple(CalibrationData(windows_NT) for windows_NT in samples_RNT)
    search = tuple(CalibrationData(windows_NT) for windows_NT in search_RNT if len(windows_NT))
    if methods.needs_submodels and methods.metric.reads == "choices":
        data, measured_on = _questions(config, tokenizer, len(drawn_RNT), warn, start)
    elif config.metric_dataset is not None and not measures_text:
        warn("--metric-dataset is not used: no sub-model is measured on it.")
    if methods.needs_submodels and answers_measured(config) and not measures_text:
        search = data  # what is measured otherwise has no parts
    return Calibration(prior_RNT, data, search, held_out_NT, guard, measured_on, drawn)


def _windows(
    config: RunConfig,
    text: Text,
    tokenizer: Any,
    size: int,
    held_out: int,
    warn: Callable[[str], None],
    start: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws of `size` windows, int64 [draws, windows, sequence], one for all rounds or one for each; and held-out ones.

    A text that is too short for all draws starts again with the first windows; the held-out ones are those it can spare
    from a single draw.
    """
    draws = most_rounds(config) if config.resample == "fresh" else 1
    all_NT = windows_of(
        text,
        tokenizer,
        num_windows=draws * size + held_out,
        sequence_length=config.sequence_length,
        seed=config.seed,
        what="calibration",
        warn=warn,
        start=start,
    )
    num_held_out = min(held_out, max(0, len(all_NT) - size))
    if num_held_out < held_out:
        warn(
            f"The calibration text has {num_held_out or 'no'} windows to hold out, where --held-out-samples asks for "
            f"{held_out}: KL on held-out text is {'of these' if num_held_out else 'not reported'}."
        )
    drawn_NT = all_NT[: len(all_NT) - num_held_out]
    order_RN = np.arange(draws * min(size, len(drawn_NT))).reshape(draws, -1) % len(drawn_NT)
    return drawn_NT[order_RN], all_NT[len(drawn_NT) :]


def _describe_drawn(
    config: RunConfig, text: Text, tokenizer: Any, draws: list[NDArray[np.int64]], size: int
) -> dict[str, Any]:
    """What a report says of the windows: each counts once, whatever it is for.

    Args:
        draws: int64 [windows, sequence] each, the last one held out.
        size: windows wanted for each of the others.
    """
    windows = list(dict.fromkeys(row.tobytes() for windows_NT in draws for row in windows_NT))
    content = "".join(tokenizer.batch_decode([np.frombuffer(row, np.int64).tolist() for row in windows]))
    return {
        "windows": len(windows),
        "windows_wanted": (len(draws) - 1) * size + config.held_out_samples,
        "sequence_length": config.sequence_length,
        "kinds": ["chat" if part.chat else "text" for part in text.texts],
        "compressed_bytes_per_character": len(zlib.compress(content.encode(), 9)) / max(1, len(content)),
    }


def _parts(drawn_RNT: NDArray[np.int64], wanted: list[int]) -> list[NDArray[np.int64]]:
    """Consecutive parts with these numbers of windows; where there are too few, they overlap rather than stay empty."""
    available, start, parts = drawn_RNT.shape[1], 0, []
    for size in wanted:
        first = max(0, min(start, available - size))
        parts.append(drawn_RNT[:, first : first + size])
        start += size
    return parts


def _questions(
    config: RunConfig, tokenizer: Any, draws: int, warn: Callable[[str], None], start: int | None
) -> tuple[tuple[CalibrationData, ...], dict[str, Any]]:
    """Questions for metrics that read them, per draw, and where they are from."""
    name = config.metric_dataset
    if name is None:
        raise BonsaiError(
            f"The metric {config.metric.name!r} reads multiple-choice questions: name a .jsonl file of them with "
            f"--metric-dataset."
        )
    rows = read_rows(name)
    drawn = (
        draw_questions(
            rows, tokenizer, num_questions=config.samples, seed=config.seed, draw=draw, warn=warn, start=start
        )
        for draw in range(draws)
    )
    return tuple(CalibrationData(questions=questions) for questions in drawn), dict(describe_rows(name, rows))
