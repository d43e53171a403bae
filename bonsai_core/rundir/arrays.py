"""Arrays of a round in one file, whose digest is in the journal."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.rundir.files import write_atomically


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write arrays as a whole and return the file's sha256, to be journaled.

    Raises:
        OSError: they cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the names as its own flags
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_array(path: Path, array: str, sha256: str, *, kind: type[np.generic], length: int) -> NDArray[Any]:
    """One of the arrays in a file, by name; it has one dimension. `sha256` is the file's, from the journal.

    Raises:
        BonsaiError: the file is missing, is not what was journaled, or holds no such array.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BonsaiError(f"Cannot read {path}: {error.strerror}. The run cannot be resumed without it.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BonsaiError(
            f"{path} is not what the journal recorded; the run cannot be resumed with it. Put back a good copy, or "
            f"start a new run with another --out."
        )
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            values: NDArray[Any] = arrays[array]
    except (ValueError, KeyError, EOFError, OSError, BadZipFile, zlib.error) as error:
        raise BonsaiError(f"{path} does not hold {array} ({error}); the run cannot be resumed with it.") from None
    if values.dtype != kind or values.shape != (length,):
        raise BonsaiError(
            f"{array} in {path} has {values.dtype} {values.shape}, and {np.dtype(kind)} {(length,)} is expected: it "
            f"belongs to another model, and the run cannot be resumed with it."
        )
    return values
