"""Texts by name: which of the sources a name means."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.settings.common import CommonSettings
from bonsai_core.settings.recipe_files import is_recipe_file
from bonsai_core.sources import hub
from bonsai_core.sources.builtin import BUILTIN, builtin_text
from bonsai_core.sources.files import is_path, read_file
from bonsai_core.sources.stored import exists, user_path
from bonsai_core.sources.text import Purpose, Text, divide

NAMED = (*BUILTIN, "c4", "wikitext2")
Config = TypeVar("Config", bound=CommonSettings)


def load_text(dataset: str, eval_dataset: str | None = None, *, characters: int = 0) -> tuple[Text, Text]:
    """Load the text to calibrate on and the text to evaluate on, never overlapping.

    Args:
        dataset: one of
            `builtin`: the language reference that ships with Python, repeated paragraphs removed; needs no
            network. A demonstration corpus, not a benchmark: it differs between Python versions.
            `builtin-code`: likewise, source code of Python's standard library.
            `wikitext2`: WikiText-2 raw, rows joined by blank lines as in the literature; train and test.
            `c4`: the first documents of the first English shard of C4; train and validation.
            a path: `.jsonl` or `.json` holds one JSON object per line, with "text", or with "messages" (a list of
            {"role", "content"}) for the tokenizer's chat template; anything else is plain text in UTF-8. A name is
            a path if such a file or folder exists, if it ends in .txt, .md, .jsonl or .json, or if it starts with `.`,
            `~` or `/`. A large file is not held in memory.
            any other name: a hub data set, its first 8 million characters, as NAME[config]:split#column. Defaults: the
            splits are train, and validation or test; the column is "text", else "messages", else the only one that
            holds strings.
        eval_dataset: a second data set, of any of these kinds, to evaluate on; a path is then used whole, on either
            side. None evaluates on the evaluation split of `dataset`; where there is none besides the calibration
            split (a path, a hub data set with one split), the last 20 % is held out, cut between two paragraphs or
            documents.
        characters: minimum to read of `c4` and of hub data sets, where they have them, to calibrate on.

    Returns:
        (calibration, evaluation).

    Raises:
        UnknownNameError: a name is misspelt.
        BonsaiError: a file or hub data set cannot be read, or both texts are the same.
    """
    calibration, starts = _load(dataset, "calibration", eval_dataset is None, characters)
    if eval_dataset is None:
        if starts is not None:
            return divide(calibration, starts)
        return calibration, _load(dataset, "evaluation", hold_out=True)[0]
    evaluation = load_evaluation_text(eval_dataset)
    if calibration.equals(evaluation):
        raise BonsaiError(
            f"--dataset {dataset} and --eval-dataset {eval_dataset} hold the same text: the evaluation would "
            "be on the calibration text. Leave out --eval-dataset to hold out the last 20 % for evaluation."
        )
    return calibration, evaluation


def load_evaluation_text(dataset: str) -> Text:
    """Load text only to evaluate on: the evaluation split where there is one, a path whole. Names as in `load_text`."""
    return _load(dataset, "evaluation", hold_out=False)[0]


def load_metric_text(dataset: str) -> Text:
    """Load text to measure sub-models on: the calibration split where there is one, a path whole."""
    return _load(dataset, "calibration", hold_out=False)[0]


def with_absolute_paths(config: Config) -> Config:
    """The same configuration with absolute paths, so that a resume from another folder finds them.

    Raises:
        BonsaiError: a name in it is one that no file can have.
    """
    recipes = [field for field in config.RECIPES if (name := getattr(config, field)) and is_recipe_file(name)]
    names = {field: getattr(config, field) for field in (*config.PATHS, *recipes)}
    paths = {field: user_path(name) for field, name in names.items() if name not in (None, "demo", *NAMED)}
    return config.model_copy(update={field: str(path.resolve()) for field, path in paths.items() if exists(path)})


def _load(name: str, purpose: Purpose, hold_out: bool, characters: int = 0) -> tuple[Text, Iterable[int] | None]:
    """One text of `load_text`; and where it may be divided, if the other text (`hold_out`) must be cut from it."""
    if name in BUILTIN:
        return replace(Text.of(name, purpose, builtin_text(name, purpose)), python=platform.python_version()), None
    if name in NAMED:
        split, content = hub.wikitext2(purpose) if name == "wikitext2" else hub.c4(purpose, characters)
        return Text.of(name, split, content), None
    if is_path(name):
        text, starts = read_file(name)
        return text, starts if hold_out else None
    asked = hub.DatasetName.of(name)
    if asked.name != name and (asked.name in NAMED or is_path(asked.name)):
        raise BonsaiError(
            f"{name!r}: only data sets of the hub have configurations, splits and columns to name. Of a file, text is "
            f'read from "text" or "messages"; {", ".join(NAMED)} are named as they are.'
        )
    near = difflib.get_close_matches(asked.name.lower(), NAMED, n=1)
    if "/" not in asked.name and near:
        raise UnknownNameError("data set", name, NAMED, "A file (.txt, .jsonl) and a hub id (owner/name) work too.")
    return hub.any_dataset(asked, purpose, hold_out, characters)
