"""Text for calibration and evaluation: loading, tokenising, cutting into windows.

Legend for array shapes: T = tokens of a whole text, N = windows, L = tokens in a window.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError, UnknownNameError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Literal["calibration", "evaluation"]

NAMED = ("builtin", "c4", "wikitext2")
EVALUATION_FRACTION = 0.2
# SparseGPT and Wanda evaluate on the first 1,100 documents of C4's first validation shard (256 windows of
# 2,048 tokens); 2,000 training documents are about a million tokens, four times their calibration set.
C4_DOCUMENTS = {"train": 2_000, "validation": 1_100}
C4_SHARDS = {
    "train": "en/c4-train.00000-of-01024.json.gz",
    "validation": "en/c4-validation.00000-of-00008.json.gz",
}
# About two million tokens of English: more than any calibration set, and read in minutes from anywhere.
HUB_CHARACTERS = 8_000_000

_JSON_SUFFIXES = {".jsonl", ".json"}
_PATH_SUFFIXES = {".txt", ".md", *_JSON_SUFFIXES}
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_OFFLINE_HELP = "Without a network, --dataset builtin and --dataset PATH (.txt or .jsonl) work."


@dataclass(frozen=True)
class Text:
    """One stretch of text and where it is from.

    Attributes:
        name: the data set as it was asked for: `builtin`, a path, a hub id.
        split: the hub's split name; for `builtin`, `calibration` or `evaluation`; for a file, `whole`, or
            `head` (the first 80 %) or `tail` (the last 20 %).
        text: the text itself.
    """

    name: str
    split: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def num_characters(self) -> int:
        """Length in Unicode code points."""
        return len(self.text)

    def describe(self) -> dict[str, str | int]:
        """What a report records: everything needed to tell whether another run used the same text."""
        facts: dict[str, str | int] = {
            "name": self.name,
            "split": self.split,
            "sha256": self.sha256,
            "characters": self.num_characters,
        }
        if self.name == "builtin":
            facts["python"] = platform.python_version()  # its documentation changes between versions
        return facts


def load_text(dataset: str, eval_dataset: str | None = None) -> tuple[Text, Text]:
    """Load the text to calibrate on and the text to evaluate on, never overlapping.

    Args:
        dataset: one of
            `builtin`: the language reference that ships with Python, repeated paragraphs removed; needs no
            network. A demonstration corpus, not a benchmark: it differs between Python versions.
            `wikitext2`: WikiText-2 raw, rows joined by blank lines as in the literature; train and test.
            `c4`: the first documents of the first English shard of C4; train and validation.
            a path: `.jsonl` or `.json` holds one JSON object with a "text" field per line; anything else is
            plain text in UTF-8. A name is taken for a path if such a file or folder exists, if it ends in
            .txt, .md, .jsonl or .json, or if it starts with `.`, `~` or `/`.
            any other name: a hub data set with a "text" column, its first 8 million characters; the splits
            are train, and validation or test.
        eval_dataset: a second data set, of any of these kinds, to evaluate on. A path is then used whole, on
            either side. None evaluates on the evaluation split of `dataset`; where it has none (a path, a hub
            data set with one split), the last 20 % is held out, cut between two paragraphs or documents.

    Returns:
        (calibration, evaluation).

    Raises:
        UnknownNameError: for a misspelt name.
        BonsaiError: for a file or hub data set that cannot be read, and for the same text on both sides.
    """
    hold_out = eval_dataset is None
    calibration = _load(dataset, "calibration", hold_out)
    evaluation = _load(dataset if eval_dataset is None else eval_dataset, "evaluation", hold_out)
    if eval_dataset is not None and calibration.text == evaluation.text:
        raise BonsaiError(
            f"--dataset {dataset} and --eval-dataset {eval_dataset} hold the same text: the evaluation would "
            "be on the calibration text. Leave out --eval-dataset to hold out the last 20 % for evaluation."
        )
    return calibration, evaluation


def load_evaluation_text(dataset: str) -> Text:
    """Load text to evaluate on alone: the evaluation split where there is one, a path whole. As `load_text` else."""
    return _load(dataset, "evaluation", hold_out=False)


def tokenize(text: Text, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """The whole text as one stream of token ids, int64 [T], with no special tokens added."""
    encoded = tokenizer(
        text.text,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,  # no "sequence longer than the maximum": windows are cut from it
    )
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def take_windows(
    tokens: NDArray[np.int64], *, num_windows: int, sequence_length: int, seed: int | None, source: Text
) -> NDArray[np.int64]:
    """Cut non-overlapping windows out of a token stream.

    The stream is divided into windows from its start; an incomplete last one is dropped. Where the text has
    fewer windows than asked for, all there are come back: compare `len(result)` with `num_windows` and warn.

    Args:
        tokens: int64 [T].
        num_windows: how many are wanted, N.
        sequence_length: tokens in each, L.
        seed: None takes the first N in order; otherwise N are drawn without replacement, and asking for more
            with the same seed keeps the ones drawn before.
        source: the text that the tokens are of, for error messages.

    Returns:
        int64 [min(N, T // L), L].

    Raises:
        BonsaiError: if the text is shorter than one window, or N or L is not positive.
    """
    if num_windows < 1 or sequence_length < 1:
        raise BonsaiError(
            f"Asked for {num_windows} windows of {sequence_length} tokens of {source.name!r}: both must be positive."
        )
    available = len(tokens) // sequence_length
    if available == 0:
        raise BonsaiError(
            f"{source.name!r} ({source.split}) has {len(tokens):,} tokens, fewer than one sequence of "
            f"{sequence_length:,}. Give a longer text, or a sequence length of {len(tokens):,} or less."
        )
    windows_NL = tokens[: available * sequence_length].reshape(available, sequence_length)
    if seed is None:
        return windows_NL[:num_windows].copy()
    return windows_NL[np.random.default_rng(seed).permutation(available)[:num_windows]]


def _load(name: str, part: Part, hold_out: bool) -> Text:
    """One side of `load_text`. `hold_out`: the other side has the same data set, so divide a single text."""
    if name == "builtin":
        return Text(name, part, _builtin(part))
    if name in NAMED:
        split, text = _wikitext2(part) if name == "wikitext2" else _c4(part)
        return Text(name, split, text)
    if _is_path(name):
        text, starts = _read_file(name)
        return _divide(name, text, starts, part) if hold_out else Text(name, "whole", text)
    near = difflib.get_close_matches(name.lower(), NAMED, n=1)
    if "/" not in name and near:
        raise UnknownNameError("data set", name, NAMED, "A file (.txt, .jsonl) and a hub id (owner/name) work too.")
    return _hub(name, part, hold_out)


def _join(documents: Iterable[str]) -> tuple[str, list[int]]:
    """Documents separated by a blank line, and where each but the first starts."""
    parts = list(documents)
    ends = itertools.accumulate(len(part) + 2 for part in parts)
    return "\n\n".join(parts), list(ends)[:-1]


def _divide(name: str, text: str, starts: list[int], part: Part) -> Text:
    """The head or the tail of a text, cut at the start in `starts` nearest to 80 % of its length."""
    if not starts:
        raise BonsaiError(
            f"{name!r} is a single paragraph, so nothing can be held out of it for evaluation. Separate its "
            "paragraphs by blank lines, or give another text with --eval-dataset."
        )
    wanted = (1 - EVALUATION_FRACTION) * len(text)
    cut = min(starts, key=lambda start: abs(start - wanted))
    return Text(name, "head", text[:cut]) if part == "calibration" else Text(name, "tail", text[cut:])


# The text that ships with Python


def _builtin(part: Part) -> str:
    """Whole topics of Python's reference, about a fifth of the characters for evaluation."""
    topics = _distinct_topics()
    room = EVALUATION_FRACTION * sum(map(len, topics.values()))
    evaluation = set()
    # Ordered by hash, because neighbours in the alphabet are about the same things (typesseq, typesmapping).
    for topic in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(topics[topic]) <= room:
            evaluation.add(topic)
            room -= len(topics[topic])
    return "\n\n".join(topics[topic] for topic in sorted(topics) if (topic in evaluation) == (part == "evaluation"))


def _distinct_topics() -> dict[str, str]:
    """Topic -> its text, without the paragraphs that an earlier or longer topic has already.

    A fifth of the corpus repeats: short topics are excerpts of long ones. So the long ones go first and stay
    readable, and what is left of the excerpts, mere headings, is dropped.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    distinct: dict[str, str] = {}
    for topic in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        fresh = []
        for paragraph in _BLANK_LINES.split(topics[topic]):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph.strip("\n"))
        remainder = "\n\n".join(fresh)
        if len(remainder) > len(topics[topic]) / 2:
            distinct[topic] = remainder
    return distinct


# Files


def _is_path(name: str) -> bool:
    path = Path(name)
    marked = name.startswith((".", "~", "/")) or path.is_absolute() or path.suffix.lower() in _PATH_SUFFIXES
    return marked or path.exists()


def _read_file(name: str) -> tuple[str, list[int]]:
    """A file's text, and where in it a paragraph or document starts."""
    path = Path(name).expanduser()
    try:
        # utf-8-sig: a byte order mark would become a token.
        content = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise BonsaiError(_missing_file(name, path)) from None
    except UnicodeDecodeError as error:
        raise BonsaiError(
            f"{name!r} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start:,}. "
            "Convert it, for instance with `iconv -f latin1 -t utf-8`."
        ) from error
    except OSError as error:
        kind = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise BonsaiError(f"{name!r} {kind}. Give one text file: plain text, or .jsonl.") from error
    if path.suffix.lower() in _JSON_SUFFIXES:
        text, starts = _join(_json_rows(name, content))
    else:
        first = len(content) - len(content.lstrip())  # blank lines before the text divide nothing
        text, starts = content, [found.end() for found in _BLANK_LINES.finditer(content.rstrip(), first)]
    if not text.strip():
        raise BonsaiError(f"{name!r} holds no text. Give a file with text in it.")
    return text, starts


def _missing_file(name: str, path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no file {name!r}: the folder {str(folder)!r} does not exist."
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir() if entry.is_file()])
    guess = f" Did you mean {' or '.join(repr(str(folder / found)) for found in near)}?" if near else ""
    return (
        f"There is no file {name!r}.{guess} --dataset takes a file, one of {', '.join(NAMED)}, or a hub id "
        "(owner/name)."
    )


def _json_rows(name: str, content: str) -> Iterator[str]:
    """The "text" field of each line; lines of white space are passed over."""
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name!r}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BonsaiError(
                f"{where}: not valid JSON ({error.msg}, column {error.colno}). Each line must be one object "
                'like {"text": "..."}.'
            ) from error
        if not isinstance(row, dict):
            raise BonsaiError(f'{where}: a {type(row).__name__}, where an object like {{"text": "..."}} is needed.')
        yield _text_of(row, where)


def _text_of(row: Mapping[str, Any], where: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        wrong = f'"text" is a {type(text).__name__}' if "text" in row else 'there is no "text"'
        raise BonsaiError(f'{where}: {wrong}. Its fields: {", ".join(map(str, row)) or "none"}. Text goes in "text".')
    if _SURROGATES.search(text):
        raise BonsaiError(f"{where}: half of a surrogate pair (\\ud800-\\udfff), which no tokenizer can encode.")
    return text


# The hub


@contextmanager
def _hub_errors(asked: str) -> Iterator[None]:
    """Turn what the hub and the network raise into one message; programming errors pass through."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    # ValueError: datasets raises it for an unknown configuration or split, huggingface_hub for an invalid id.
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise BonsaiError(
            f"Could not load {asked} from the Hugging Face hub: {error} ({type(error).__name__}). {_OFFLINE_HELP}"
        ) from error


def _wikitext2(part: Part) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if part == "calibration" else "test"
    with _hub_errors(f"wikitext2 (Salesforce/wikitext, wikitext-2-raw-v1, {split})"):
        rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    # Empty rows stay and rows keep their line ends: published perplexities are of exactly this string.
    return split, "\n\n".join(row["text"] for row in rows)


def _c4(part: Part) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if part == "calibration" else "validation"
    with _hub_errors(f"c4 (allenai/c4, {C4_SHARDS[split]})"):
        shard = {split: C4_SHARDS[split]}
        rows = load_dataset("allenai/c4", data_files=shard, split=split, streaming=True)
        documents = [row["text"] for row in itertools.islice(rows, C4_DOCUMENTS[split])]
    return split, _join(documents)[0]


def _hub(name: str, part: Part, hold_out: bool) -> Text:
    from datasets import load_dataset

    with _hub_errors(f"data set {name!r}"):
        splits = load_dataset(name, streaming=True)
        for_evaluation = next((split for split in ("validation", "test") if split in splits), None)
        split = for_evaluation if part == "evaluation" and for_evaluation else "train"
        if split not in splits:
            raise BonsaiError(
                f"Data set {name!r} has no split {split!r}, only {', '.join(splits)}. Save the text as a "
                '.jsonl file with a "text" field, and give its path.'
            )
        text, starts = _join(_first_documents(splits[split], name))
    if hold_out and for_evaluation is None:
        return _divide(name, text, starts, part)
    return Text(name, split, text)


def _first_documents(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """Non-empty texts, in order, until `HUB_CHARACTERS` are together."""
    characters = 0
    for number, row in enumerate(rows, start=1):
        text = _text_of(row, f"data set {name!r}, row {number}")
        if text.strip():
            yield text
        characters += len(text)
        if characters >= HUB_CHARACTERS:
            return
