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
from bonsai_core.sources.mixture import have_the_same, mixed, named_texts
from bonsai_core.sources.stored import exists, user_path
from bonsai_core.sources.text import Purpose, Text, divide

NAMED = (*BUILTIN, "c4", "wikitext2")
NO_PATHS = (None, "demo", "none")
"""What settings that may name a file hold besides."""
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
            `c4[de]`: C4 in another language, by its code (mC4, allenai/c4); train and validation.
            `wikipedia[de]`: Wikipedia in a language, by its code (wikimedia/wikipedia, November 2023).
            a path: `.jsonl` or `.json` holds one JSON object per line, with "text", or with "messages" or
            "conversations" (a list of {"role", "content"}) for the tokenizer's chat template; anything else is plain
            text in UTF-8. A name is a path if such a file or folder exists, if it ends in .txt, .md, .jsonl or .json,
            or if it starts with `.`, `~` or `/`. A large file is not held in memory.
            any other name: a hub data set, its first 8 million characters, as NAME[config]:split#column. Defaults: the
            splits are train, and validation or test; the column is "text", else "messages" or "conversations",
            else the only one that holds strings.
            several of these with shares, as `c4:0.7,chat.jsonl:0.3`.
        eval_dataset: a second data set (or several), of any of these kinds, to evaluate on; paths are then used whole,
            on either side. None evaluates on the evaluation split of `dataset` (of several, in the same shares); where
            there is none besides the calibration split (a path, a hub data set with one split), the last 20 % is held
            out, cut between two paragraphs or documents.
        characters: minimum to read of `c4` and of hub data sets, where they have them, to calibrate on.

    Returns:
        (calibration, evaluation).

    Raises:
        UnknownNameError: a name is misspelt.
        BonsaiError: a file or hub data set cannot be read, shares make no sense, or both texts are the same.
    """
    named = named_texts(dataset)
    if eval_dataset is None:
        heads, tails = zip(*(_both(name, characters) for name, _ in named), strict=True)
        calibration, evaluation = mixed(dataset, named, heads), mixed(dataset, named, tails)
        if have_the_same(calibration, evaluation):
            raise BonsaiError(
                f"--dataset {dataset}: what one part calibrates on, another would evaluate on. Name --eval-dataset."
            )
        return calibration, evaluation
    calibration = mixed(dataset, named, [_load(name, "calibration", False, characters)[0] for name, _ in named])
    evaluation = load_evaluation_text(eval_dataset)
    if have_the_same(calibration, evaluation):
        raise BonsaiError(
            f"--dataset {dataset} and --eval-dataset {eval_dataset} hold the same text: the evaluation would "
            "be on the calibration text. Leave out --eval-dataset to hold out the last 20 % for evaluation."
        )
    return calibration, evaluation


def load_evaluation_text(dataset: str) -> Text:
    """Load text only to evaluate on: the evaluation split where there is one, a path whole. Names as in `load_text`."""
    return _whole(dataset, "evaluation")


def load_metric_text(dataset: str) -> Text:
    """Load text to measure on while pruning: the calibration split where there is one, a path whole."""
    return _whole(dataset, "calibration")


def with_absolute_paths(config: Config) -> Config:
    """The same configuration with absolute paths, so that a resume from another folder finds them.

    Raises:
        BonsaiError: a name in it is one that no file can have.
    """
    recipes = [field for field in config.RECIPES if (name := getattr(config, field)) and is_recipe_file(name)]
    names = {field: getattr(config, field) for field in (*config.PATHS, *recipes)}
    used = {field: name for field, name in names.items() if name not in NO_PATHS}
    paths = {field: (_absolute_texts if field in config.TEXTS else _absolute)(name) for field, name in used.items()}
    return config.model_copy(update=paths)


def _absolute_texts(asked: str) -> str:
    named = named_texts(asked)
    if len(named) == 1:
        return _absolute(asked)
    return ",".join(f"{_absolute(name)}:{share!r}" for name, share in named)


def _absolute(name: str) -> str:
    path = user_path(name)
    return name if name in NAMED or not exists(path) else str(path.resolve())


def _both(name: str, characters: int) -> tuple[Text, Text]:
    """One text to calibrate on and one to evaluate on, of the same data set."""
    calibration, starts = _load(name, "calibration", True, characters)
    if starts is not None:
        return divide(calibration, starts)
    return calibration, _load(name, "evaluation", hold_out=True)[0]


def _whole(dataset: str, purpose: Purpose) -> Text:
    named = named_texts(dataset)
    return mixed(dataset, named, [_load(name, purpose, hold_out=False)[0] for name, _ in named])


def _load(name: str, purpose: Purpose, hold_out: bool, characters: int = 0) -> tuple[Text, Iterable[int] | None]:
    """One text of `load_text`; and where it may be divided, if the other text (`hold_out`) must be cut from it."""
    if name in BUILTIN:
        return replace(Text.of(name, purpose, builtin_text(name, purpose)), python=platform.python_version()), None
    if name == "c4[en]":
        name = "c4"
    if name in NAMED:
        split, content = hub.wikitext2(purpose) if name == "wikitext2" else hub.c4(purpose, characters)
        return Text.of(name, split, content), None
    if is_path(name):
        text, starts = read_file(name)
        return text, starts if hold_out else None
    multilingual = hub.in_language(name)
    if multilingual is not None:
        text, documents = hub.any_dataset(multilingual, purpose, hold_out, characters)
        return replace(text, name=name), documents
    asked = hub.DatasetName.of(name)
    if asked.name != name and (asked.name in NAMED or is_path(asked.name)):
        raise BonsaiError(
            f"{name!r}: only data sets of the hub have configurations, splits and columns to name. Of a file, text is "
            f'read from "text" or a chat; {", ".join(NAMED)} are named as they are.'
        )
    near = difflib.get_close_matches(asked.name.lower(), NAMED, n=1)
    if "/" not in asked.name and near:
        raise UnknownNameError("data set", name, NAMED, "A file (.txt, .jsonl) and a hub id (owner/name) work too.")
    return hub.any_dataset(asked, purpose, hold_out, characters)
