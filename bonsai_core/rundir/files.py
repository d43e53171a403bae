"""Files that are written as a whole or not at all, and folders in which nothing points elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from bonsai_core.errors import BonsaiError

PARTIAL = ".partial"
"""Suffix of a file that is being written."""


def partial_of(path: Path) -> Path:
    """The name under which a file is written before it gets its own."""
    return path.with_name(path.name + PARTIAL)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a kill or a power cut leaves the old contents or the new, never a part.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_file(path) as partial, partial.open("xb") as file:  # never into what somebody else put there
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A file to write, which replaces `path` when the block ends without an error; see `write_atomically`.

    Raises:
        OSError: it cannot be written.
    """
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which replaces `path` when the block ends without an error.

    A kill leaves the old folder, none, or the whole new one; at worst a hidden sibling, which the next call removes.

    Raises:
        OSError: it cannot be written.
    """
    partial, previous = (path.with_name(f".{path.name}.{what}") for what in ("partial", "previous"))
    _remove(partial, previous)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in filter(Path.is_file, partial.rglob("*")):
            _sync(file)
        # A folder with content cannot be replaced, only moved out of the way.
        if path.exists():
            path.replace(previous)
        partial.replace(path)
    except BaseException:
        if previous.exists() and not path.exists():
            previous.replace(path)
        raise
    finally:
        _remove(partial, previous)


def refuse_other_than(wanted: Literal["file", "folder"], path: Path) -> None:
    """Check that a name is free, or that of an ordinary file or folder.

    Raises:
        BonsaiError: it is a link, a pipe, a device, or the other of the two.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise BonsaiError(f"Cannot access {path}: {error.strerror}.") from None
    if stat.S_ISLNK(mode):
        raise BonsaiError(
            f"{path} is a symbolic link to {path.readlink()}. Links in a run directory are not followed, because they "
            f"may lead out of it. Put what it points to in its place, or remove it."
        )
    if not (stat.S_ISREG(mode) if wanted == "file" else stat.S_ISDIR(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a pipe, socket or device"
        raise BonsaiError(f"{path} is {kind}, where a {wanted} of a run is expected. Move it away.")


def refuse_links_inside(path: Path) -> None:
    """The same for everything in a folder."""
    for folder, folders, files in os.walk(path):
        for name in folders:
            refuse_other_than("folder", Path(folder, name))
        for name in files:
            refuse_other_than("file", Path(folder, name))


@contextmanager
def held(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file for this process; the operating system releases it when the process dies.

    Raises:
        BonsaiError: another process holds it; `taken` is the message.
        OSError: it cannot be written.
    """
    refuse_other_than("file", path)
    file = FileLock(path, timeout=0)
    try:
        file.acquire()
    except Timeout:
        raise BonsaiError(taken) from None
    try:
        yield
    finally:
        file.release()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(*folders: Path) -> None:
    for folder in filter(Path.exists, folders):
        shutil.rmtree(folder)
