"""Files that texts are read from: as they were when first opened, a line or a piece at a time."""

from __future__ import annotations

import codecs
import difflib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bonsai_core.errors import BonsaiError
from bonsai_core.settings.names import checked_name
from bonsai_core.sources.sniff import HEAD, not_utf8, refuse_what_is_not_text


def user_path(name: str) -> Path:
    """A path as people type it, `~` included.

    Raises:
        BonsaiError: it names the home of an unknown user, or has bytes that are not UTF-8.
    """
    try:
        return Path(checked_name(name)).expanduser()
    except RuntimeError as error:
        raise BonsaiError(f"Cannot read the path {name!r}: {error} Write it out in full.") from None


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False for a name that the file system does not allow."""
    try:
        return path.exists()
    except OSError:
        return False


@dataclass(frozen=True)
class File:
    """A file with text in UTF-8.

    Attributes:
        name: what the user calls it.
        stamp: its size and the time of its last change, when it was first opened.
        piped: what came out of a pipe, which can be read only once; None for an ordinary file.
    """

    name: str
    path: Path
    stamp: tuple[int, int]
    piped: bytes | None

    def open(self) -> BinaryIO:
        """The file from its start.

        Raises:
            BonsaiError: it has changed.
        """
        if self.piped is not None:
            return io.BytesIO(self.piped)
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise BonsaiError(f"{self.name!r} cannot be read any more ({error.strerror}).") from None
        if _stamp(file) != self.stamp:
            file.close()
            raise BonsaiError(f"{self.name!r} has changed while it was being read. Start again.")
        return file

    def read(self, start: int, num_bytes: int) -> bytes:
        """Some consecutive bytes; errors as for `open`."""
        with self.open() as file:
            file.seek(start)
            return file.read(num_bytes)


class Line(NamedTuple):
    """A line of a file, counted from 1, or a part of a very long one, with its line end; `start` is in bytes."""

    number: int
    start: int
    num_bytes: int
    content: str


def find_file(name: str, instead: str) -> File:
    """Open a file for the first time.

    Args:
        instead: a sentence for messages: what can be given if there is no such file.

    Raises:
        BonsaiError: there is no such file, it cannot be read, or it is not text in UTF-8.
    """
    path = user_path(name)
    try:
        with path.open("rb") as file:
            piped = None if path.is_file() else file.read()
            stamp = _stamp(file)
            head = file.read(HEAD) if piped is None else piped[:HEAD]
    except FileNotFoundError:
        raise BonsaiError(f"{_missing_file(name, path)} {instead}") from None
    except OSError as error:
        kind = "is a folder" if exists(path) and path.is_dir() else f"cannot be read ({error.strerror})"
        raise BonsaiError(f"{name!r} {kind}. Give one text file: plain text, or .jsonl.") from error
    refuse_what_is_not_text(name, head)
    return File(name, path, stamp, piped)


def read_lines(file: File, longest: int = -1) -> Iterator[Line]:
    """The lines of a file, without a byte order mark, which would become a token; line ends are `\\n`.

    Args:
        longest: lines of more bytes than this come in parts; -1: all are whole.

    Raises:
        BonsaiError: the file is not UTF-8.
    """
    with file.open() as stream:
        start = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        stream.seek(start)
        number = 1
        while line := _read_line(stream, longest):
            try:
                content = line.decode()
            except UnicodeDecodeError as error:
                raise not_utf8(file.name, stream, start + error.start) from error
            yield Line(number, start, len(line), with_line_ends(content))
            start += len(line)
            number += line.endswith(b"\n")


def with_line_ends(content: str) -> str:
    """The text with the line ends of Windows replaced."""
    return content.replace("\r\n", "\n")


def _read_line(stream: BinaryIO, longest: int) -> bytes:
    """The next line, or its first `longest` bytes at most: neither a character nor a line end is divided."""
    line = stream.readline(longest)
    if len(line) < longest or longest < 0 or line.endswith(b"\n"):
        return line
    end = len(line) - 1
    while line[end] & 0xC0 == 0x80 and len(line) - end < 4:
        end -= 1
    stream.seek(end - len(line), os.SEEK_CUR)
    return line[:end]


def _stamp(file: BinaryIO) -> tuple[int, int]:
    facts = os.fstat(file.fileno())
    return facts.st_size, facts.st_mtime_ns


def _missing_file(name: str, path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no file {name!r}: the folder {str(folder)!r} does not exist."
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir() if entry.is_file()])
    guess = f" Did you mean {' or '.join(repr(str(folder / other)) for other in near)}?" if near else ""
    return f"There is no file {name!r}.{guess}"
