"""Multiple-choice questions: rows of a .jsonl file, tokenised once per run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.rows import json_rows, refuse_surrogates
from bonsai_core.sources.stored import find_file, user_path

SHAPE = 'Each line must be an object like {"question": "...", "choices": ["...", "..."], "gold": 0}.'


@dataclass(frozen=True)
class Row:
    """A question as its file has it."""

    question: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Question:
    """A question as a model reads it.

    Attributes:
        sequences: per choice, the tokens of question and choice, int64 [tokens].
        num_given: per choice, how many of those tokens are the question's, at least 1.
        num_bytes: per choice, its length in UTF-8, int64 [choices].
        gold: index of the right choice.
    """

    sequences: tuple[NDArray[np.int64], ...]
    num_given: tuple[int, ...]
    num_bytes: NDArray[np.int64]
    gold: int


def read_rows(name: str) -> list[Row]:
    """All questions of a .jsonl file.

    Raises:
        BonsaiError: it cannot be read, or a line is not a question.
    """
    if user_path(name).suffix.lower() != ".jsonl":
        raise BonsaiError(f"{name!r} is not a .jsonl file. Multiple-choice questions are read from one. {SHAPE}")
    rows = [_row(row.value, row.where) for row in json_rows(find_file(name, SHAPE), SHAPE)]
    if not rows:
        raise BonsaiError(f"{name!r} holds no question. {SHAPE}")
    return rows


def describe_rows(name: str, rows: Sequence[Row]) -> dict[str, str | int]:
    """What a report records to tell whether another run used the same questions."""
    text = json.dumps([(row.question, row.choices, row.gold) for row in rows])
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "questions": len(rows)}


def draw_questions(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    num_questions: int,
    seed: int,
    draw: int,
    warn: Callable[[str], None],
    start: int | None = None,
) -> list[Question]:
    """`num_questions` rows in random order, tokenised; `warn` receives a message if there are fewer.

    Args:
        draw: 0 for the first draw with this seed; later ones take other rows, as long as there are any.
        start: a token that every question begins with.
    """
    if len(rows) < num_questions and draw == 0:
        warn(f"There are only {len(rows)} questions; {num_questions} were asked for.")
    order = np.roll(np.random.default_rng(seed).permutation(len(rows)), -draw * num_questions)
    return [_tokenised(rows[index], tokenizer, start) for index in order[:num_questions]]


def _row(value: Mapping[str, Any], where: str) -> Row:
    question, choices, gold = (value.get(name) for name in ("question", "choices", "gold"))
    if not isinstance(question, str) or not question.strip():
        raise BonsaiError(f'{where}: "question" must be text with something in it. {SHAPE}')
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) and choice.strip() for choice in choices)
    ):
        raise BonsaiError(f'{where}: "choices" must be a list of at least two texts. {SHAPE}')
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise BonsaiError(f'{where}: "gold" must be the index of a choice, 0 to {len(choices) - 1}; it is {gold!r}.')
    refuse_surrogates("".join((question, *choices)), where)
    return Row(question, tuple(choices), gold)


def _tokenised(row: Row, tokenizer: Any, start: int | None) -> Question:
    """The question in the field's usual frame, followed by each choice."""
    given = f"Question: {row.question.strip()}\nAnswer:"
    num_given = len(_ids(tokenizer, given, start))
    sequences = tuple(_ids(tokenizer, f"{given} {choice.strip()}", start) for choice in row.choices)
    num_bytes = np.array([len(choice.strip().encode()) for choice in row.choices])
    # A tokenizer may merge the end of the question with the choice: at least the last token is the choice's.
    return Question(sequences, tuple(min(num_given, len(ids) - 1) for ids in sequences), num_bytes, row.gold)


def _ids(tokenizer: Any, text: str, start: int | None) -> NDArray[np.int64]:
    first = [] if start is None else [start]
    return np.asarray([*first, *tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=np.int64)
