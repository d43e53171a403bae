"""Several texts with shares: how they are named, and how their windows are mixed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonsai_core import BonsaiError, RunConfig
from bonsai_core.sources import (
    evaluation_windows,
    load_evaluation_text,
    load_metric_text,
    load_text,
    training_windows,
    windows_of,
    with_absolute_paths,
)

LENGTH = 5


class Letters:
    """A tokenizer that makes of each character its number; the chat template gives the contents."""

    chat_template = "contents"

    def __call__(self, content: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in content]}

    def apply_chat_template(self, messages: Any, **settings: Any) -> str:
        return "".join(message["content"] for message in messages)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the texts a.txt, b.txt, c.txt and chat.jsonl, each of one letter and blank lines."""
    monkeypatch.chdir(tmp_path)
    for letter in "abc":
        (tmp_path / f"{letter}.txt").write_text("\n\n".join([letter * 98] * 10), encoding="utf-8")
    chat = json.dumps({"messages": [{"role": "user", "content": "d" * 100}]})
    (tmp_path / "chat.jsonl").write_text("\n".join([chat] * 10), encoding="utf-8")
    return tmp_path


def letters(windows_NL: np.ndarray) -> str:
    """The letter of each window."""
    return "".join(Counter(chr(token) for token in row if token != 10).most_common(1)[0][0] for row in windows_NL)


def drawn(name: str, num_windows: int, seed: int | None = 0, **settings: Any) -> np.ndarray:
    warn = settings.pop("warn", pytest.fail)
    size = {"num_windows": num_windows, "sequence_length": LENGTH}
    return windows_of(load_metric_text(name), Letters(), **size, seed=seed, what="calibration", warn=warn, **settings)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("a.txt:0.7,b.txt:0.3", "a7 b3"),
        ("a.txt:7, b.txt:3", "a7 b3"),
        ("a.txt:1,b.txt:1,c.txt:1", "a4 b3 c3"),
        ("a.txt:0.62,b.txt:0.24,c.txt:0.14", "a6 b2 c2"),
        ("b.txt:1e-1,chat.jsonl:.9", "b1 d9"),
    ],
)
def test_windows_are_drawn_by_largest_remainder(folder: Path, name: str, counts: str) -> None:
    windows = drawn(name, 10)
    assert Counter(letters(windows)) == {pair[0]: int(pair[1:]) for pair in counts.split()}
    np.testing.assert_array_equal(windows, drawn(name, 10))
    assert letters(drawn(name, 10, seed=1)) == letters(windows)


@pytest.mark.parametrize("seed", [0, None])
def test_consecutive_windows_have_each_text_by_its_share(folder: Path, seed: int | None) -> None:
    found = letters(drawn("a.txt:0.7,b.txt:0.2,c.txt:0.1", 100, seed))
    for size in (5, 10, 20, 50):
        for first in range(0, 100 - size):
            part = Counter(found[first : first + size])
            assert all(abs(part[letter] - share * size) < 2 for letter, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)))


def test_a_single_text_is_drawn_as_without_others(folder: Path) -> None:
    (folder / "numbers.txt").write_text("".join(map(chr, range(100, 600))), encoding="utf-8")
    alone = drawn("numbers.txt", 20)
    both = drawn("numbers.txt:0.5,a.txt:0.5", 40)
    np.testing.assert_array_equal(both[both[:, 0] != ord("a")][: len(alone)], alone)


def test_every_window_begins_with_the_start_token(folder: Path) -> None:
    assert (drawn("a.txt:0.5,b.txt:0.5", 10, start=7)[:, 0] == 7).all()


def test_what_is_too_short_or_not_used_is_told(folder: Path) -> None:
    warnings: list[str] = []
    assert Counter(letters(drawn("a.txt:0.9,b.txt:0.1", 1_000, warn=warnings.append))) == {"a": 199, "b": 100}
    assert letters(drawn("a.txt:0.99,b.txt:0.01", 10, warn=warnings.append)) == "a" * 10
    assert warnings == [
        "The calibration text 'a.txt' has only 199 windows of 5 tokens; 900 were asked for.",
        "The calibration text 'b.txt' is not used: its share of 10 windows is less than one.",
    ]
    (folder / "tiny.txt").write_text("abc", encoding="utf-8")
    with pytest.raises(BonsaiError, match=r"'tiny.txt' .* has 3 tokens, fewer than one sequence"):
        drawn("a.txt:0.9,tiny.txt:0.1", 10)


def test_both_halves_have_the_shares(folder: Path) -> None:
    halves = load_text("a.txt:0.7,chat.jsonl:0.3")
    for text, split in zip(halves, ("head", "tail"), strict=True):
        facts = text.describe()
        assert (facts["name"], facts["split"]) == ("a.txt:0.7,chat.jsonl:0.3", "mixed")
        assert [(part["name"], part["split"], part["share"]) for part in facts["parts"]] == [
            ("a.txt", split, 0.7),
            ("chat.jsonl", split, 0.3),
        ]
        assert facts["characters"] == sum(part["characters"] for part in facts["parts"])
    config = RunConfig(eval_samples=10, eval_sequence_length=LENGTH)
    windows = evaluation_windows(halves[1], Letters(), config, pytest.fail, None)
    assert Counter(letters(windows)) == {"a": 7, "d": 3}


def test_training_takes_what_is_there_in_these_shares(folder: Path) -> None:
    text = load_metric_text("a.txt:0.25,b.txt:0.75")
    windows = training_windows(text, Letters(), num_windows=None, sequence_length=LENGTH, seed=0)
    assert Counter(letters(windows)) == {"a": 66, "b": 199}


def test_a_text_on_both_sides_is_refused(folder: Path) -> None:
    for evaluation in ("b.txt", "c.txt:0.5,b.txt:0.5"):
        with pytest.raises(BonsaiError, match="hold the same text"):
            load_text("a.txt:0.5,b.txt:0.5", evaluation)
    assert load_text("a.txt:0.5,b.txt:0.5", "c.txt")[1] == load_evaluation_text("c.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt:0.7,b.txt", "each needs a share, as c4:0.7"),
        ("a.txt,b.txt:0.3", "each needs a share"),
        ("a.txt,b.txt", "each needs a share"),
        ("c4,wikitext2", "each needs a share"),
        ("a.txt:0.7,b.txt,c.txt:0.3", "each needs a share"),
        ("a.txt:0.7", "a single text with a share"),
        ("owner/data:train:0.7", "a single text with a share"),
        ("a.txt:0,b.txt:1", "share of 'a.txt' .* is 0; shares are positive"),
        ("a.txt:1.5,b.txt:-0.5", "share of 'b.txt' .* is -0.5"),
        ("a.txt:1e999,b.txt:1", "share of 'a.txt' .* is inf"),
        ("a.txt:0.5,a.txt:0.5", "'a.txt' is in .* twice"),
        (":0.5,a.txt:0.5", "a share without a text"),
        ("a.txt:0.5,nothing.txt:0.5", r"There is no file 'nothing\.txt'"),
        ("a.txt:0.5,buildin:0.5", "Did you mean 'builtin'"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, name: str, message: str) -> None:
    with pytest.raises(BonsaiError, match=message):
        load_text(name)


def test_a_file_may_have_a_comma_or_a_number_in_its_name(folder: Path) -> None:
    for name in ("a,b.txt", "notes:0.5"):
        (folder / name).write_text("x" * 100, encoding="utf-8")
        assert load_metric_text(name).text == "x" * 100
    assert Counter(letters(drawn("a,b.txt:0.5,c.txt:0.5", 10))) == {"x": 5, "c": 5}
    assert Counter(letters(drawn("notes:0.5:0.5,c.txt:0.5", 10))) == {"x": 5, "c": 5}


def test_paths_become_absolute(folder: Path) -> None:
    config = with_absolute_paths(RunConfig(dataset="a.txt:0.5,c4:0.25,chat.jsonl:0.25", guard_dataset="none"))
    assert config.dataset == f"{folder / 'a.txt'}:0.5,c4:0.25,{folder / 'chat.jsonl'}:0.25"
    assert config.guard_dataset == "none"
