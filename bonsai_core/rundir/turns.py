"""Turns between processes, of one machine or of several that share a file system."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

BEAT_S = 5.0
"""Whoever has the turn shows this often that it lives."""
SILENCE_S = 120.0
"""Whoever has shown nothing for this long is not waited for: longer than a network file system keeps old contents."""
PAUSE_S = 0.1


@contextmanager
def turn(path: Path, silence_s: float = SILENCE_S) -> Iterator[None]:
    """Wait for the turn, and keep it while the context lasts; the files of the turn are removed at its end.

    A process that dies gives up its turn. Where the system cannot tell that it died (its machine did, and the lock is
    kept by a file server), others go on after `silence_s`, without the turn: two may then work at the same time.

    Args:
        path: of a lock file; a file beside it shows that whoever has the turn lives.

    Raises:
        OSError: the files cannot be written.
    """
    lock, sign = FileLock(path), path.with_suffix(".alive")
    if not _acquired(lock, sign, silence_s):
        yield
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(sign, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        with suppress(OSError):  # Windows removes no open file
            sign.unlink(missing_ok=True)
            path.unlink(missing_ok=True)  # who waits for the removed file gets its turn, too
        lock.release()


def _acquired(lock: FileLock, sign: Path, silence_s: float) -> bool:
    """Whether the turn has come; False if whoever has it shows no life."""
    seen, since = b"", time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            return True
        except Timeout:
            now = _shown(sign)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > silence_s:
            return False
        time.sleep(PAUSE_S)


def _shown(sign: Path) -> bytes:
    with suppress(OSError):
        return sign.read_bytes()  # opening it asks a file server for its contents; its time may be an old one
    return b""


def _beat(sign: Path, over: threading.Event) -> None:
    number = 0
    while not over.is_set():
        number += 1
        with suppress(OSError):  # a full disk; what is computed is told of it
            sign.write_text(str(number))
        over.wait(BEAT_S)
