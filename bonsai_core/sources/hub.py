"""Data sets of the Hugging Face hub: how they are named, and what is read of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.rows import CHATS, TEXT, chat_column, document
from bonsai_core.sources.text import Purpose, Text, join

# SparseGPT and Wanda evaluate on the first 1,100 documents of C4's first validation shard (256 windows of
# 2,048 tokens); 2,000 training documents are about a million tokens, four times their calibration set.
C4_DOCUMENTS = {"train": 2_000, "validation": 1_100}
C4_SHARDS = {"train": "en/c4-train.00000-of-01024.json.gz", "validation": "en/c4-validation.00000-of-00008.json.gz"}
# About two million tokens of English: more than any calibration set, and read in minutes from anywhere.
HUB_CHARACTERS = 8_000_000
_OFFLINE_HELP = "Without a network, --dataset builtin and --dataset PATH (.txt or .jsonl) work."
SYNTAX = "NAME[config]:split#column"
LANGUAGES = {"c4": "allenai/c4[{}]", "wikipedia": "wikimedia/wikipedia[20231101.{}]"}
"""Data sets in many languages, which ``c4[de]`` and ``wikipedia[de]`` name; c4 without a language is English."""
_PATTERN = re.compile(r"(?P<name>[^\[\]:#]+)(\[(?P<config>[^\[\]]+)\])?(:(?P<split>[\w.-]+))?(#(?P<column>.+))?")


@dataclass(frozen=True)
class DatasetName:
    """What `NAME[config]:split#column` says, None where it says nothing; `name` is the hub id."""

    name: str
    config: str | None = None
    split: str | None = None
    column: str | None = None

    @classmethod
    def of(cls, asked: str) -> DatasetName:
        """Parse a name as a user writes it; `str` gives it back.

        Raises:
            BonsaiError: it is not written like that.
        """
        match = _PATTERN.fullmatch(asked)
        if match is None:
            raise BonsaiError(
                f"Cannot read the data set's name {asked!r}. It is written {SYNTAX}, where each part but NAME can be "
                f"left out, as in owner/name[en]:train#content."
            )
        return cls(**match.groupdict())

    def __str__(self) -> str:
        parts = (("[", self.config, "]"), (":", self.split, ""), ("#", self.column, ""))
        return self.name + "".join(f"{left}{part}{right}" for left, part, right in parts if part is not None)


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


def in_language(name: str) -> DatasetName | None:
    """The data set of the hub that a name such as ``c4[de]`` means; None for any other name.

    Raises:
        BonsaiError: the language is missing, or something else is named besides.
    """
    family = name.partition("[")[0]
    if family not in LANGUAGES or name in ("c4", "c4[en]"):
        return None
    match = re.fullmatch(r"\w+\[(?P<language>[\w-]+)\]", name)
    if match is None:
        raise BonsaiError(
            f"Cannot read {name!r}: {family} takes a language and nothing else, as {family}[de]. For splits and "
            f"columns, write the hub's own name: {LANGUAGES[family].format('de')}:split#column."
        )
    return DatasetName.of(LANGUAGES[family].format(match["language"]))


def wikitext2(purpose: Purpose) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if purpose == "calibration" else "test"
    with _hub_errors(f"wikitext2 (Salesforce/wikitext, wikitext-2-raw-v1, {split})"):
        rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    # Empty rows stay and rows keep their line ends: published perplexities are of exactly this string.
    return split, "\n\n".join(row["text"] for row in rows)


def c4(purpose: Purpose, characters: int) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if purpose == "calibration" else "validation"
    with _hub_errors(f"c4 (allenai/c4, {C4_SHARDS[split]})"):
        rows = load_dataset("allenai/c4", data_files={split: C4_SHARDS[split]}, split=split, streaming=True)
        documents, count = [], 0
        for row in rows:
            documents.append(row["text"])
            count += len(row["text"])
            if len(documents) >= C4_DOCUMENTS[split] and (split != "train" or count >= characters):
                break
    return split, join(documents)[0]


def any_dataset(asked: DatasetName, purpose: Purpose, hold_out: bool, characters: int) -> tuple[Text, list[int] | None]:
    """Text of any data set.

    Args:
        hold_out: calibration and evaluation are both on this data set.

    Returns:
        The text; and where its documents start, if it must be divided because no split is left for evaluation.

    Raises:
        BonsaiError: there is no such data set, configuration, split or column, or no text in it.
    """
    from datasets import load_dataset

    where = f"data set {str(asked)!r}"
    with _hub_errors(where), _explained_configurations(asked):
        splits = load_dataset(asked.name, asked.config, streaming=True)
        other = next((split for split in ("validation", "test") if split in splits and split != asked.split), None)
        named = None if purpose == "evaluation" and hold_out else asked.split
        split = named or (other if purpose == "evaluation" else None) or "train"
        if split not in splits:
            raise BonsaiError(
                f"Data set {asked.name!r} has no split {split!r}, only {', '.join(splits)}. Name one of them, as in "
                f"{replace(asked, split=next(iter(splits)))}; in full {SYNTAX}."
            )
        rows = splits[split]
        first: Mapping[str, Any] = next(iter(rows), {})
        column = asked.column or _text_column(first, getattr(rows, "features", None) or {}, asked)
        chat = isinstance(first.get(column), list)
        content, starts = join(_first_documents(rows, where, column, chat, max(HUB_CHARACTERS, characters)))
    if not content:
        raise BonsaiError(f"The split {split!r} of {where} holds no text in its column {column!r}.")
    text = replace(Text.of(str(asked), split, content), config=asked.config, column=column, chat=chat)
    return text, starts if hold_out and other is None else None


@contextmanager
def _explained_configurations(asked: DatasetName) -> Iterator[None]:
    """Say how to name a configuration if the data set has several and none of them was named."""
    from datasets import get_dataset_config_names

    try:
        yield
    except ValueError as error:
        try:
            available = get_dataset_config_names(asked.name)
        except (OSError, ValueError):
            available = []  # then the error is about something else
        if len(available) < 2 or asked.config in available:
            raise
        wrong = f"no configuration {asked.config!r}" if asked.config else "several configurations"
        raise BonsaiError(
            f"Data set {asked.name!r} has {wrong}. Name one of {', '.join(available)}, as in "
            f"{replace(asked, config=available[0])}; in full {SYNTAX}."
        ) from error


def _text_column(first: Mapping[str, Any], features: Mapping[str, Any], asked: DatasetName) -> str:
    """The column that is the text: `text`, else that of chats, else the only one that holds strings.

    Args:
        first: the first row; empty if there is none.
        features: the declared types of the columns, where known.
    """
    strings = [
        name
        for name, value in first.items()
        if isinstance(value, str) or getattr(features.get(name), "dtype", None) in ("string", "large_string")
    ]
    if TEXT in first or not first:
        return TEXT
    if (chat := chat_column(first)) is not None:
        return chat
    if len(strings) == 1:
        return strings[0]
    raise BonsaiError(
        f"Data set {str(asked)!r} has no column {' or '.join(map(repr, (TEXT, *CHATS)))}, and "
        f"{len(strings) or 'none'} of its others hold text: its columns are {', '.join(first)}. Name one: {SYNTAX}."
    )


def _first_documents(
    rows: Iterable[Mapping[str, Any]], where: str, column: str, chat: bool, characters: int
) -> Iterator[str]:
    """Non-empty documents, in order, until they have that many characters."""
    count = 0
    for number, row in enumerate(rows, start=1):
        text = document(row, f"{where}, row {number}", column, chat)
        if text.strip():
            yield text
        count += len(text)
        if count >= characters:
            return
