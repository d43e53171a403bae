"""Texts by name: which of the sources a name means."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.sources import hub
from bonsai_core.sources.builtin import builtin_text
from bonsai_core.sources.files import is_path, read_file, user_path
from bonsai_core.sources.text import Part, Text, divide

NAMED = ("builtin", "c4", "wikitext2")


def load_text(dataset: str, eval_dataset: str | None = None, *, characters: int = 0) -> tuple[Text, Text]:
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
        characters: read at least so many of `c4` and of hub data sets, where they have them, to calibrate on.

    Returns:
        (calibration, evaluation).

    Raises:
        UnknownNameError: for a misspelt name.
        BonsaiError: for a file or hub data set that cannot be read, and for the same text on both sides.
    """
    hold_out = eval_dataset is None
    calibration = _load(dataset, "calibration", hold_out, characters)
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


def load_metric_text(dataset: str) -> Text:
    """Load text to measure sub-models on: the calibration split where there is one, a path whole."""
    return _load(dataset, "calibration", hold_out=False)


def absolute_names(names: Mapping[str, str | None]) -> dict[str, str]:
    """Of what is named, all that lies in files and folders here, by absolute paths."""
    found = {key: user_path(name) for key, name in names.items() if name is not None and name not in ("demo", *NAMED)}
    return {key: str(path.resolve()) for key, path in found.items() if path.exists()}


def _load(name: str, part: Part, hold_out: bool, characters: int = 0) -> Text:
    """One side of `load_text`. `hold_out`: the other side has the same data set, so divide a single text."""
    if name == "builtin":
        return Text(name, part, builtin_text(part))
    if name in NAMED:
        split, text = hub.wikitext2(part) if name == "wikitext2" else hub.c4(part, characters)
        return Text(name, split, text)
    if is_path(name):
        text, starts = read_file(name)
        return divide(name, text, starts, part) if hold_out else Text(name, "whole", text)
    near = difflib.get_close_matches(name.lower(), NAMED, n=1)
    if "/" not in name and near:
        raise UnknownNameError("data set", name, NAMED, "A file (.txt, .jsonl) and a hub id (owner/name) work too.")
    return hub.any_dataset(name, part, hold_out, characters)
