"""Sequences of questions in batches of about the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_core.sources import Question


@dataclass(frozen=True)
class PaddedBatch:
    """Sequences padded on the right to the longest of them: no token sees what follows it.

    Attributes:
        ids_NT: int64 [sequences, tokens].
        choices: of each sequence, the number of its question and that of the choice.
        lengths_N: tokens of each without padding, int64 [sequences].
    """

    ids_NT: NDArray[np.int64]
    choices: tuple[tuple[int, int], ...]
    lengths_N: NDArray[np.int64]


def padded_batches(questions: Sequence[Question], tokens: int) -> tuple[PaddedBatch, ...]:
    """All sequences of some questions, those of about the same length together.

    Args:
        tokens: of a batch with its padding, at most; a sequence longer than that is a batch of its own.
    """
    rows = [(q, c) for q, question in enumerate(questions) for c in range(len(question.sequences))]
    rows.sort(key=lambda row: len(questions[row[0]].sequences[row[1]]))
    batches: list[PaddedBatch] = []
    while rows:
        size = 1
        while size < len(rows) and (size + 1) * len(questions[rows[size][0]].sequences[rows[size][1]]) <= tokens:
            size += 1
        choices, rows = rows[:size], rows[size:]
        sequences = [questions[q].sequences[c] for q, c in choices]
        ids_NT = np.zeros((size, len(sequences[-1])), dtype=np.int64)
        for row_T, sequence in zip(ids_NT, sequences, strict=True):
            row_T[: len(sequence)] = sequence
        batches.append(PaddedBatch(ids_NT, tuple(choices), np.array([len(sequence) for sequence in sequences])))
    return tuple(batches)
