"""Text files and JSON lines, with errors that say where and what."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError
from bonsai_core.names import checked_name
from bonsai_core.sources.text import BLANK_LINES, join

_JSON_SUFFIXES = {".jsonl", ".json"}
_PATH_SUFFIXES = {".txt", ".md", *_JSON_SUFFIXES}
_TEXT_ROWS = 'Each line must be an object like {"text": "..."}.'
_TEXTS = "--dataset takes a file, a named data set (builtin, wikitext2, c4), or a hub id (owner/name)."
_SURROGATES = re.compile("[\ud800-\udfff]")


def user_path(name: str) -> Path:
    """A path as people type it, `~` included.

    Raises:
        BonsaiError: it names the home of a user there is not, or no file system takes it.
    """
    try:
        return Path(checked_name(name)).expanduser()
    except RuntimeError as error:
        raise BonsaiError(f"Cannot read the path {name!r}: {error} Write it out in full.") from None


def is_path(name: str) -> bool:
    path = Path(name)
    marked = name.startswith((".", "~", "/")) or path.is_absolute() or path.suffix.lower() in _PATH_SUFFIXES
    return marked or path.exists()


def read_file(name: str) -> tuple[str, list[int]]:
    """A file's text, and where in it a paragraph or document starts."""
    if user_path(name).suffix.lower() in _JSON_SUFFIXES:
        text, starts = join(text_of(row, where) for row, where in json_objects(name, _TEXT_ROWS, _TEXTS))
    else:
        text = _content(name, _TEXTS)
        first = len(text) - len(text.lstrip())  # blank lines before the text divide nothing
        starts = [found.end() for found in BLANK_LINES.finditer(text.rstrip(), first)]
    if not text.strip():
        raise BonsaiError(f"{name!r} holds no text. Give a file with text in it.")
    return text, starts


def json_objects(name: str, shape: str, instead: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The object on each line of a JSON lines file, and where it stands, for messages; blank lines are passed over.

    Args:
        shape: a sentence for messages: what a line must be like.
        instead: another: what can be given where there is no such file.

    Raises:
        BonsaiError: the file cannot be read, or a line is no JSON object.
    """
    for number, line in enumerate(_content(name, instead).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name!r}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BonsaiError(f"{where}: not valid JSON ({error.msg}, column {error.colno}). {shape}") from error
        if not isinstance(row, dict):
            raise BonsaiError(f"{where}: a {type(row).__name__}, where an object is needed. {shape}")
        yield row, where


def _content(name: str, instead: str) -> str:
    path = user_path(name)
    try:
        # utf-8-sig: a byte order mark would become a token.
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise BonsaiError(f"{_missing_file(name, path)} {instead}") from None
    except UnicodeDecodeError as error:
        raise BonsaiError(
            f"{name!r} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start:,}. "
            "Convert it, for instance with `iconv -f latin1 -t utf-8`."
        ) from error
    except OSError as error:
        kind = "is a folder" if path.is_dir() else f"cannot be read ({error.strerror})"
        raise BonsaiError(f"{name!r} {kind}. Give one text file: plain text, or .jsonl.") from error


def _missing_file(name: str, path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no file {name!r}: the folder {str(folder)!r} does not exist."
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir() if entry.is_file()])
    guess = f" Did you mean {' or '.join(repr(str(folder / found)) for found in near)}?" if near else ""
    return f"There is no file {name!r}.{guess}"


def text_of(row: Mapping[str, Any], where: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        wrong = f'"text" is a {type(text).__name__}' if "text" in row else 'there is no "text"'
        raise BonsaiError(f'{where}: {wrong}. Its fields: {", ".join(map(str, row)) or "none"}. Text goes in "text".')
    if _SURROGATES.search(text):
        raise BonsaiError(f"{where}: half of a surrogate pair (\\ud800-\\udfff), which no tokenizer can encode.")
    return text
