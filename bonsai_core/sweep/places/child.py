"""A process that does runs of a sweep for another one; what takes long to import is imported once it has a log."""

from __future__ import annotations

import faulthandler
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

LOGS_NAME = "logs"


def log_path(directory: Path, run: str) -> Path:
    """Where the process of a run writes what it has to say beside its events."""
    return directory / LOGS_NAME / f"{run}.log"


def do_tasks(connection: Connection, log: Path) -> None:
    """Receive tasks; of each send lists of events, then the outcome.

    Args:
        log: of the first task.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep's process receives it, too, and ends the others
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt, EOFError):  # ended, or nobody has tasks any more
        _write_to(log)
        from bonsai_core.sweep.places.worker import perform

        while True:
            task = connection.recv()
            _write_to(log_path(task.directory, task.run.name))
            _send(connection, perform(task, lambda events: _send(connection, events)))


def _send(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except OSError:  # nobody waits for the run any more
        raise SystemExit(1) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _write_to(log: Path) -> None:
    """Let the process write to a file what would disturb the display: warnings, and its last words."""
    log.parent.mkdir(exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    faulthandler.enable()
