"""Whether a worker of a Ray cluster can do runs of a sweep: it sees the sweep's directory and has the same Bonsai."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bonsai_core.rundir import write_atomically
from bonsai_core.rundir.versions import other_versions, versions

TOKEN_NAME = ".visible"


@dataclass(frozen=True)
class Token:
    """What a worker must find.

    Attributes:
        directory: of the sweep, absolute.
        text: the contents of a file in it.
        versions: of the packages that decide results.
    """

    directory: Path
    text: str
    versions: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / TOKEN_NAME


def write_token(directory: Path) -> Token:
    """Write what workers must find.

    Raises:
        OSError: it cannot be written.
    """
    token = Token(directory, secrets.token_hex(16), versions())
    write_atomically(token.path, token.text.encode())
    return token


def fault_of_worker(token: Token) -> str | None:
    """What keeps this process from doing runs of a sweep, in words; None if nothing does."""
    host = socket.gethostname()
    if different := other_versions(token.versions):
        return (
            f"The node {host} has {different}. Install the versions of the machine that starts the sweep on all nodes."
        )
    beside = token.path.with_name(f"{TOKEN_NAME}-{host}-{os.getpid()}")
    try:
        if token.path.read_text() != token.text:
            return _not_shared(host, token, "another directory has this name there")
        beside.write_text(token.text)
        beside.unlink()
    except OSError as error:
        return _not_shared(host, token, f"{error.filename}: {error.strerror}")
    return None


def _not_shared(host: str, token: Token, why: str) -> str:
    return (
        f"The node {host} cannot read and write {token.directory} ({why}). The runs of a sweep over Ray write there "
        f"from all nodes: choose an --out on a file system that all of them see under the same path."
    )
