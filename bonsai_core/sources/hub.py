"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.files import text_of
from bonsai_core.sources.text import Part, Text, divide, join

# SparseGPT and Wanda evaluate on the first 1,100 documents of C4's first validation shard (256 windows of
# 2,048 tokens); 2,000 training documents are about a million tokens, four times their calibration set.
C4_DOCUMENTS = {"train": 2_000, "validation": 1_100}
C4_SHARDS = {
    "train": "en/c4-train.00000-of-01024.json.gz",
    "validation": "en/c4-validation.00000-of-00008.json.gz",
}
# About two million tokens of English: more than any calibration set, and read in minutes from anywhere.
HUB_CHARACTERS = 8_000_000
_OFFLINE_HELP = "Without a network, --dataset builtin and --dataset PATH (.txt or .jsonl) work."


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


def wikitext2(part: Part) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if part == "calibration" else "test"
    with _hub_errors(f"wikitext2 (Salesforce/wikitext, wikitext-2-raw-v1, {split})"):
        rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    # Empty rows stay and rows keep their line ends: published perplexities are of exactly this string.
    return split, "\n\n".join(row["text"] for row in rows)


def c4(part: Part, characters: int) -> tuple[str, str]:
    from datasets import load_dataset

    split = "train" if part == "calibration" else "validation"
    with _hub_errors(f"c4 (allenai/c4, {C4_SHARDS[split]})"):
        shard = {split: C4_SHARDS[split]}
        rows = load_dataset("allenai/c4", data_files=shard, split=split, streaming=True)
        documents, count = [], 0
        for row in rows:
            documents.append(row["text"])
            count += len(row["text"])
            if len(documents) >= C4_DOCUMENTS[split] and (split != "train" or count >= characters):
                break
    return split, join(documents)[0]


def any_dataset(name: str, part: Part, hold_out: bool, characters: int) -> Text:
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
        text, starts = join(_first_documents(splits[split], name, max(HUB_CHARACTERS, characters)))
    if hold_out and for_evaluation is None:
        return divide(name, text, starts, part)
    return Text(name, split, text)


def _first_documents(rows: Iterable[Mapping[str, Any]], name: str, characters: int) -> Iterator[str]:
    """Non-empty texts, in order, until so many characters are together."""
    count = 0
    for number, row in enumerate(rows, start=1):
        text = text_of(row, f"data set {name!r}, row {number}")
        if text.strip():
            yield text
        count += len(text)
        if count >= characters:
            return
