"""The journal: append-only events in SQLite, each durable before it counts."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError, DamagedError
from bonsai_core.rundir.payloads import fault_of

Payload = Mapping[str, Any]
OUTSIDE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""SQLite's codes for faults outside of the file: a full disk, permissions."""


class Journal:
    """What a run has measured and decided, by key. Every event has a digest, so that a changed one is noticed.

    Args:
        path: the database file; made if it is not there.
        on_append: receives each new event's key and the number of events.
        read_only: somebody else's, which stays as it is; the process that writes it is not kept from it.

    Raises:
        BonsaiError: the file cannot be opened.
        DamagedError: it is damaged, or is not a journal.
    """

    def __init__(
        self, path: Path, *, on_append: Callable[[str, int], None] | None = None, read_only: bool = False
    ) -> None:
        self.path = path
        self._on_append = on_append
        self._events: dict[str, Payload] = {}
        self._elapsed_s: dict[str, float] = {}
        with ExitStack() as unless_read:
            try:
                mode = "ro" if read_only else "rwc"
                uri = f"{path.absolute().as_uri()}?mode={mode}"
                self._database = sqlite3.connect(uri, isolation_level=None, uri=True)
                unless_read.callback(self._database.close)
                if not read_only:
                    _prepare(self._database)
                rows = _read(self._database)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                raise _error(path, error) from None
            for row in rows:
                self._take(*row)
            unless_read.pop_all()

    def __len__(self) -> int:
        return len(self._events)

    def __contains__(self, key: str) -> bool:
        return key in self._events

    def __getitem__(self, key: str) -> Payload:
        if key not in self._events:
            raise _damaged(self.path, f"the event {key!r} is missing")
        return self._events[key]

    def get(self, key: str) -> Payload | None:
        """The payload of an event, or None."""
        return self._events.get(key)

    def items(self) -> list[tuple[str, Payload, float]]:
        """(key, payload, seconds it took) of all events, oldest first."""
        return [(key, payload, self._elapsed_s[key]) for key, payload in self._events.items()]

    def seconds(self, stage_of: Callable[[str], str]) -> dict[str, float]:
        """Seconds per stage over all processes that worked on the run; without stages that took less than 0.1.

        Args:
            stage_of: an event's stage, by its key.
        """
        stages: dict[str, float] = defaultdict(float)
        for key, elapsed_s in self._elapsed_s.items():
            stages[stage_of(key)] += elapsed_s
        return {stage: round(seconds, 3) for stage, seconds in stages.items() if seconds >= 0.1}

    def append(self, key: str, payload: Payload, elapsed_s: float = 0.0) -> None:
        """Add an event; on return it survives a power cut. Keys are unique.

        Raises:
            BonsaiError: the disk is full or not writable, or the file was damaged meanwhile.
        """
        text, elapsed_s = json.dumps(payload, sort_keys=True), float(elapsed_s)
        try:
            self._database.execute(
                "INSERT INTO events (key, payload, elapsed_s, sha256) VALUES (?, ?, ?, ?)",
                (key, text, elapsed_s, _digest(key, text, elapsed_s)),
            )
        except sqlite3.IntegrityError:  # the key exists: our own mistake, not the file's
            raise
        except sqlite3.DatabaseError as error:
            raise _error(self.path, error) from error
        self._events[key] = json.loads(text)
        self._elapsed_s[key] = elapsed_s
        if self._on_append:
            self._on_append(key, len(self))

    def close(self) -> None:
        """Close the database; the WAL is folded in."""
        self._database.close()

    def _take(self, key: Any, text: Any, elapsed_s: Any, sha256: Any) -> None:
        """Add an event that was read, if it is what was written."""
        if not (isinstance(key, str) and isinstance(text, str) and isinstance(elapsed_s, float)):
            raise _damaged(self.path, "an event has columns of other types")
        if sha256 not in (None, _digest(key, text, elapsed_s)):  # journals of earlier versions have none
            raise _damaged(self.path, f"the event {key!r} is not what was written")
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError):
            raise _damaged(self.path, f"the event {key!r} is not JSON") from None
        if fault := fault_of(key, payload):
            raise _damaged(self.path, f"the event {key!r}, {fault}")
        self._events[key] = payload
        self._elapsed_s[key] = elapsed_s


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS events"
        " (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL,"
        " payload TEXT NOT NULL, elapsed_s REAL NOT NULL, sha256 TEXT)"
    )
    if "sha256" not in _columns(database):
        database.execute("ALTER TABLE events ADD COLUMN sha256 TEXT")


def _read(database: sqlite3.Connection) -> list[tuple[Any, Any, Any, Any]]:
    columns = _columns(database)
    if not columns:  # another process is just making it
        return []
    sha256 = "sha256" if "sha256" in columns else "NULL"
    return database.execute(f"SELECT key, payload, elapsed_s, {sha256} FROM events ORDER BY number").fetchall()


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(events)")}


def _digest(key: str, text: str, elapsed_s: float) -> str:
    return hashlib.sha256(f"{key}\n{elapsed_s!r}\n{text}".encode()).hexdigest()


def _error(path: Path, error: sqlite3.DatabaseError | UnicodeDecodeError) -> BonsaiError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in OUTSIDE:  # the lower byte of SQLite's extended codes
        return _damaged(path, str(error))
    return BonsaiError(
        f"Cannot write the journal {path}: {error}. Nothing measured so far is lost; make room or mend the "
        f"permissions, then: bonsai resume {path.parent}"
    )


def _damaged(path: Path, why: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged or is not a journal of Bonsai ({why}). Put back a good copy, or start a new run with "
        f"another --out."
    )
