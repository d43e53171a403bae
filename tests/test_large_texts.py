"""Texts that are too large to be tokenised whole: what is read of them, and that it is the same text."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bonsai_core import BonsaiError
from bonsai_core.sources import (
    Text,
    load_evaluation_text,
    load_text,
    take_windows,
    tokenize,
    training_windows,
    windows_of,
)

LINES = 100_000
LINE = "{:07d} stands at the beginning of this line, which goes on and on, so that there is much to read in the text.\n"
SAMPLED = 6_000_000
"""Characters; about four million are enough for few windows, wherever they are."""


@dataclass
class LineNumbers:
    """A tokenizer that makes of each line its number, and counts what it is given."""

    given: list[int] = field(default_factory=list)

    def __call__(self, content: str, **settings: Any) -> dict[str, list[int]]:
        self.given.append(len(content))
        return {"input_ids": [int(line[:7]) for line in content.split("\n") if line]}


def story(num_lines: int = LINES) -> str:
    """Paragraphs of ten lines."""
    return "".join(LINE.format(n) + "\n" * (n % 10 == 9) for n in range(num_lines))


@pytest.fixture(scope="module")
def content() -> str:
    return story()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, content: str) -> Path:
    """A file of eleven million characters."""
    path = tmp_path_factory.mktemp("texts") / "large.txt"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def tokenizer() -> Any:
    return LineNumbers()


def no_warning(message: str) -> None:
    raise AssertionError(message)


def drawn(text: Text, tokenizer: Any, num_windows: int, seed: int | None = 3, length: int = 50) -> np.ndarray:
    return windows_of(
        text,
        tokenizer,
        num_windows=num_windows,
        sequence_length=length,
        seed=seed,
        what="calibration",
        warn=no_warning,
    )


class TestWindows:
    def test_a_few_are_drawn_from_all_over_the_text_without_reading_it_whole(
        self, large: Path, tokenizer: LineNumbers
    ) -> None:
        text = load_evaluation_text(str(large))
        windows = drawn(text, tokenizer, 60)
        assert sum(tokenizer.given) < SAMPLED
        assert len(np.unique(windows)) == windows.size
        assert set(windows[:, 0] * 4 // LINES) == {0, 1, 2, 3}
        np.testing.assert_array_equal(windows, drawn(text, LineNumbers(), 60))
        assert not np.array_equal(windows, drawn(text, LineNumbers(), 60, seed=4))

    def test_asking_for_more_keeps_those_drawn_before(self, large: Path, tokenizer: LineNumbers) -> None:
        text = load_evaluation_text(str(large))
        more = drawn(text, tokenizer, 1_800)
        assert sum(tokenizer.given) > SAMPLED
        assert len(np.unique(more)) == more.size
        for fewer in (10, 700, 1_000):
            np.testing.assert_array_equal(drawn(text, LineNumbers(), fewer), more[:fewer])

    def test_more_than_there_are(self, large: Path, tokenizer: LineNumbers) -> None:
        warnings: list[str] = []
        windows = windows_of(
            load_evaluation_text(str(large)),
            tokenizer,
            num_windows=LINES,
            sequence_length=50,
            seed=0,
            what="calibration",
            warn=warnings.append,
        )
        assert sorted(windows.flatten()) == list(range(LINES))
        assert warnings == ["The calibration text has only 2000 windows of 50 tokens; 100000 were asked for."]
        assert max(tokenizer.given) < 300_000  # a piece at a time

    def test_evaluation_reads_from_the_start(self, large: Path, tokenizer: LineNumbers) -> None:
        windows = drawn(load_evaluation_text(str(large)), tokenizer, 40, seed=None)
        np.testing.assert_array_equal(windows.flatten(), np.arange(2_000))
        assert sum(tokenizer.given) < 300_000

    def test_windows_longer_than_what_is_read_at_a_time(self, large: Path, tokenizer: LineNumbers) -> None:
        windows = drawn(load_evaluation_text(str(large)), tokenizer, 1, length=80_000)
        assert len(np.unique(windows)) == 80_000
        with pytest.raises(BonsaiError, match=r"has 100,000 tokens, fewer than one sequence of 100,001"):
            drawn(load_evaluation_text(str(large)), tokenizer, 1, length=LINES + 1)

    def test_a_text_that_is_not_large_is_tokenised_whole(self, tokenizer: LineNumbers, tmp_path: Path) -> None:
        path = tmp_path / "small.txt"
        path.write_text(story(30_000), encoding="utf-8")
        text = load_evaluation_text(str(path))
        expected = take_windows(np.arange(30_000), num_windows=20, sequence_length=50, seed=3, source=text)
        np.testing.assert_array_equal(drawn(text, tokenizer, 20), expected)
        assert tokenizer.given == [text.num_characters]

    def test_those_to_train_on(self, large: Path, tokenizer: LineNumbers) -> None:
        text = load_evaluation_text(str(large))
        few = training_windows(text, tokenizer, num_windows=60, sequence_length=50, seed=3)
        assert sum(tokenizer.given) < SAMPLED
        np.testing.assert_array_equal(few, drawn(text, tokenizer, 60))
        every = training_windows(text, tokenizer, num_windows=None, sequence_length=50, seed=3)
        np.testing.assert_array_equal(every.flatten(), np.arange(LINES))


class TestFiles:
    def test_it_is_the_same_text_as_in_memory(self, large: Path, content: str) -> None:
        whole, expected = load_evaluation_text(str(large)), Text.of(str(large), "whole", content)
        assert whole.describe() == expected.describe()
        assert whole.equals(expected)
        assert [piece.read() for piece in whole.pieces] == [piece.read() for piece in expected.pieces]

    def test_the_tail_is_held_out_at_a_paragraph(self, large: Path, content: str) -> None:
        head, tail = load_text(str(large))
        assert head.text + tail.text == content
        assert tail.text.startswith("0080000")

    def test_it_is_not_held_in_memory(self, large: Path) -> None:
        tracemalloc.start()
        try:
            head, tail = load_text(str(large))
            assert head.sha256 != tail.sha256
            assert not head.contains(tail)
            assert tracemalloc.get_traced_memory()[1] < head.num_characters / 3
        finally:
            tracemalloc.stop()

    def test_line_ends_of_windows_and_a_byte_order_mark_change_nothing(
        self, large: Path, content: str, tmp_path: Path, tokenizer: LineNumbers
    ) -> None:
        path = tmp_path / "windows.txt"
        path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
        ours, theirs = load_text(str(large)), load_text(str(path))
        assert [text.sha256 for text in ours] == [text.sha256 for text in theirs]
        np.testing.assert_array_equal(drawn(ours[0], tokenizer, 60), drawn(theirs[0], tokenizer, 60))

    def test_a_single_line_of_many_bytes_per_character(self, tmp_path: Path) -> None:
        content = "".join(f"{n} äöü 漢字 𝄞\r" for n in range(300_000))
        path = tmp_path / "line.md"
        path.write_text(content, encoding="utf-8", newline="")
        text = load_evaluation_text(str(path))
        assert text.text == content
        assert max(piece.num_characters for piece in text.pieces) < 600_000
        with pytest.raises(BonsaiError, match="single paragraph"):
            load_text(str(path))

    def test_json_lines_are_documents(self, tmp_path: Path, tokenizer: LineNumbers) -> None:
        documents = [LINE.format(n) * 3 for n in range(20_000)]
        path = tmp_path / "rows.jsonl"
        path.write_text("\r\n\n".join(json.dumps({"text": document}) for document in documents), encoding="utf-8")
        head, tail = load_text(str(path))
        assert head.text + tail.text == "\n\n".join(documents)
        assert tail.text.startswith("0016000")
        assert len(np.unique(drawn(head, tokenizer, 20))) > 300
        assert sum(tokenizer.given) < SAMPLED

    def test_bytes_that_are_not_utf8_are_named_by_their_place(self, large: Path, tmp_path: Path) -> None:
        path = tmp_path / "broken.txt"
        path.write_bytes(large.read_bytes() + b"caf\xe9\n")
        with pytest.raises(BonsaiError, match=f"byte 0xe9 at offset {large.stat().st_size + 3:,}"):
            load_text(str(path))

    def test_a_file_that_changes_is_noticed(self, content: str, tmp_path: Path, tokenizer: LineNumbers) -> None:
        path = tmp_path / "changing.txt"
        path.write_text(content, encoding="utf-8")
        text = load_evaluation_text(str(path))
        path.write_text(content.upper(), encoding="utf-8")
        os.utime(path, ns=(0, 0))
        with pytest.raises(BonsaiError, match="has changed while it was being read"):
            tokenize(text, tokenizer)

    def test_one_text_in_another(self, large: Path, content: str, tmp_path: Path) -> None:
        path = tmp_path / "part.txt"
        whole = load_evaluation_text(str(large))
        for start, stop in ((0, 300_000), (260_000, 265_000), (9_000_001, len(content)), (3_000_000, 9_000_000)):
            path.write_text(content[start:stop], encoding="utf-8")
            part = load_evaluation_text(str(path))
            assert whole.contains(part)
            assert not part.contains(whole)
            path.write_text(content[start : stop - 1] + "?", encoding="utf-8")
            assert not whole.contains(load_evaluation_text(str(path)))

    def test_the_same_text_twice_is_refused(self, large: Path, content: str, tmp_path: Path) -> None:
        copy = tmp_path / "copy.txt"
        copy.write_text(content, encoding="utf-8")
        with pytest.raises(BonsaiError, match="Leave out --eval-dataset"):
            load_text(str(large), str(copy))
