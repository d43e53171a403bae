"""The journal: append-only events in SQLite, each durable before it counts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bonsai_core.errors import BonsaiError

Payload = Mapping[str, Any]


class Journal:
    """What a run has measured and decided, by key; a run is resumed by asking it before computing anything.

    Args:
        path: the database file; made if it is not there.
        on_append: told the key and the number of events after each new one.

    Raises:
        BonsaiError: the file cannot be opened, or is no journal.
    """

    def __init__(self, path: Path, *, on_append: Callable[[str, int], None] | None = None) -> None:
        self.path = path
        self._on_append = on_append
        with ExitStack() as unless_read:
            try:
                self._database = sqlite3.connect(path, isolation_level=None)
                unless_read.callback(self._database.close)
                rows = _read(self._database)
                self._events: dict[str, Payload] = {key: json.loads(payload) for key, payload, _ in rows}
            except sqlite3.OperationalError as error:
                raise _storage_error(path, error) from error
            except (sqlite3.DatabaseError, json.JSONDecodeError):
                raise BonsaiError(
                    f"{path} is damaged or is no journal of Bonsai. Put back a good copy, or start a new run with "
                    f"another --out."
                ) from None
            unless_read.pop_all()
        self._elapsed_s: dict[str, float] = {key: elapsed for key, _, elapsed in rows}

    def __len__(self) -> int:
        return len(self._events)

    def __contains__(self, key: str) -> bool:
        return key in self._events

    def __getitem__(self, key: str) -> Payload:
        return self._events[key]

    def get(self, key: str) -> Payload | None:
        """The payload of an event, or None."""
        return self._events.get(key)

    def items(self) -> list[tuple[str, Payload, float]]:
        """(key, payload, seconds it took) of all events, oldest first."""
        return [(key, payload, self._elapsed_s[key]) for key, payload in self._events.items()]

    def append(self, key: str, payload: Payload, elapsed_s: float = 0.0) -> None:
        """Add an event; on return it survives a power cut. Keys are unique.

        Raises:
            BonsaiError: the disk is full or not writable.
        """
        text = json.dumps(payload, sort_keys=True)
        try:
            self._database.execute(
                "INSERT INTO events (key, payload, elapsed_s) VALUES (?, ?, ?)", (key, text, elapsed_s)
            )
        except sqlite3.OperationalError as error:
            raise _storage_error(self.path, error) from error
        self._events[key] = json.loads(text)
        self._elapsed_s[key] = elapsed_s
        if self._on_append:
            self._on_append(key, len(self))

    def once(self, key: str, compute: Callable[[], Payload]) -> Payload:
        """The event's payload; computed, timed and appended if the journal does not have it yet."""
        if key not in self._events:
            start = time.perf_counter()
            payload = compute()
            self.append(key, payload, time.perf_counter() - start)
        return self._events[key]

    def close(self) -> None:
        """Close the database; the WAL is folded in."""
        self._database.close()


def _read(database: sqlite3.Connection) -> list[tuple[str, str, float]]:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS events"
        " (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL,"
        " payload TEXT NOT NULL, elapsed_s REAL NOT NULL)"
    )
    return database.execute("SELECT key, payload, elapsed_s FROM events ORDER BY number").fetchall()


def _storage_error(path: Path, error: sqlite3.OperationalError) -> BonsaiError:
    return BonsaiError(
        f"Cannot write the journal {path}: {error}. Nothing measured so far is lost; make room or mend the "
        f"permissions, then: bonsai resume {path.parent}"
    )
