"""Texts in files: plain ones and JSON lines."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.rows import TEXT, chat_column, document, json_rows, parse
from bonsai_core.sources.sniff import refuse_nul
from bonsai_core.sources.stored import File, Line, Stored, exists, find_file, read_lines, user_path, with_line_ends
from bonsai_core.sources.text import PIECE, Held, Text, paragraph_starts

_JSON_SUFFIXES = {".jsonl", ".json"}
_PACKED_SUFFIXES = {".parquet", ".gz", ".zst", ".zip", ".xz", ".bz2"}
_PATH_SUFFIXES = {".txt", ".md", *_JSON_SUFFIXES, *_PACKED_SUFFIXES}
_SHAPE = 'Each line must be an object like {"text": "..."} or {"messages": [{"role": "...", "content": "..."}]}.'
_TEXTS = "--dataset takes a file, a named data set (builtin, wikitext2, c4), or a hub id (owner/name)."
_BETWEEN = "\n\n"


def is_path(name: str) -> bool:
    """Whether a data set's name is that of a file or folder."""
    path = user_path(name)
    marked = name.startswith((".", "~", "/")) or path.is_absolute() or path.suffix.lower() in _PATH_SUFFIXES
    return marked or exists(path)


def read_file(name: str) -> tuple[Text, Iterable[int]]:
    """A file's text, and where each paragraph or document but the first starts.

    A large file is read through once and not kept in memory: pieces are read again when they are needed.

    Raises:
        BonsaiError: it cannot be read, is not text in UTF-8, or holds none.
    """
    file = find_file(name, _TEXTS)
    starts: Iterable[int]
    if user_path(name).suffix.lower() in _JSON_SUFFIXES:
        text, starts = _rows(file)
    else:
        text = _plain(file)
        starts = paragraph_starts(text.pieces)
    if not text.is_large:
        text = replace(text, pieces=tuple(Held(piece.read()) for piece in text.pieces))
    return text, starts


class _Pieces:
    """Pieces of a file, built a line at a time."""

    def __init__(self, file: File, decode: Callable[[bytes], str]) -> None:
        self._file = file
        self._decode = decode
        self._pieces: list[Stored] = []
        self._start = self._end = self._num_characters = 0  # of the piece that is being built
        self._num_nul = 0
        self._blank = True

    def add(self, line: Line, content: str) -> None:
        if not self._num_characters:
            self._start = line.start
        self._end = line.start + line.num_bytes
        self._num_characters += len(content)
        self._num_nul += content.count("\0")
        self._blank = self._blank and not content.strip()
        if self._num_characters >= PIECE:
            self._close()

    def text(self, num_dropped: int = 0) -> Text:
        """All of them, but for the last `num_dropped` characters.

        Raises:
            BonsaiError: there is nothing to read, or too much of it is NUL.
        """
        if self._num_characters:
            self._close()
        pieces = Text(self._file.name, "whole", tuple(self._pieces))
        text = pieces.section(0, pieces.num_characters - num_dropped, pieces.split)
        if self._blank:
            raise BonsaiError(f"{text.name!r} holds no text. Give a file with text in it.")
        refuse_nul(text.name, self._num_nul, text.num_characters)
        return text

    def _close(self) -> None:
        size = self._end - self._start
        self._pieces.append(Stored(self._file, self._start, size, self._num_characters, self._decode))
        self._num_characters = 0


def _plain(file: File) -> Text:
    pieces = _Pieces(file, _lines_in)
    for line in read_lines(file, longest=PIECE):
        pieces.add(line, line.content)
    return pieces.text()


def _rows(file: File) -> tuple[Text, array[int]]:
    """The documents of a JSON lines file, separated by blank lines, and where each but the first starts."""
    column, chat, pieces = TEXT, False, None
    starts = array("q", [0])
    for value, where, line in json_rows(file, _SHAPE):
        if pieces is None:
            column = TEXT if TEXT in value else chat_column(value) or TEXT
            chat = column != TEXT
            pieces = _Pieces(file, partial(_documents_in, column=column, chat=chat))
        content = document(value, where, column, chat) + _BETWEEN
        pieces.add(line, content)
        starts.append(starts[-1] + len(content))
    text = (pieces or _Pieces(file, _lines_in)).text(num_dropped=len(_BETWEEN))
    return replace(text, column=column if chat else None, chat=chat), starts[1:-1]


def _lines_in(content: bytes) -> str:
    return with_line_ends(content.decode())


def _documents_in(content: bytes, column: str, chat: bool) -> str:
    """The documents on lines that have been read before, so that errors need not say where."""
    lines = (line for line in content.decode().split("\n") if line.strip())
    return "".join(document(parse(line, "", _SHAPE), "", column, chat) + _BETWEEN for line in lines)
