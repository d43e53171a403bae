"""The dense model's side of the distillation: computed once and stored compactly, or asked at every step.

Legend for array shapes: W = windows, L = tokens of a window, K = stored log-probabilities per token.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.adaptation.loss import TopTokens
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.passes import Passes
from bonsai_core.rundir import atomic_file, write_atomically
from bonsai_core.rundir.ledger import Ledger, Step

SMALL_VOCABULARY = 2**16
"""Up to this size, token ids are stored in two bytes."""


class StoredTeacher:
    """A teacher's likeliest tokens for every window of the schedule, in two files that are mapped, not read.

    A token takes 4 (vocabularies up to 65,536) or 6 bytes for each of its K log-probabilities, and 2 for the bucket.
    A third file has the number of stored windows and their digest: what was damaged since is computed again.

    Args:
        shape: windows, predicted tokens per window, K.
    """

    def __init__(self, directory: Path, shape: tuple[int, int, int], vocabulary: int) -> None:
        windows, tokens, k = shape
        self._k = k
        kind = np.dtype(np.uint16 if vocabulary <= SMALL_VOCABULARY else np.int32)
        with _storing(directory):
            directory.mkdir(exist_ok=True)
        self._ids_WLK = _mapped(directory / "ids.bin", kind, (windows, tokens, k))
        self._log_p_WLK = _mapped(directory / "log_p.bin", np.dtype(np.float16), (windows, tokens, k + 1))
        self._count_path = directory / "windows.json"
        self._digest = hashlib.sha256()
        self._done = 0
        self._resume()

    @property
    def complete(self) -> bool:
        """Whether all windows are stored."""
        return self._done == len(self._ids_WLK)

    @staticmethod
    def num_bytes(shape: tuple[int, int, int], vocabulary: int) -> int:
        """Size of the files."""
        windows, tokens, k = shape
        return windows * tokens * (k * (2 if vocabulary <= SMALL_VOCABULARY else 4) + 2 * (k + 1))

    def compute(self, passes: Passes, windows_WL: NDArray[np.int64], ledger: Ledger) -> None:
        """Run the teacher over all windows that are not stored yet."""
        first = done = self._done
        ledger.skip(windows_WL[:first].size)
        started = time.monotonic()
        for start, hidden in passes.last_hidden(windows_WL[first:]):
            for window, states in enumerate(hidden, start=first + start):
                self._store(window, passes, states[:-1])
            number = first + start + len(hidden)
            self._count(number)
            now = time.monotonic()
            ledger.record(Step(f"teacher/{done}"), {"windows": number}, now - started)
            done, started = number, now

    def tokens(self, windows: Tensor, device: torch.device) -> TopTokens:
        """Those of some windows, consecutively."""
        rows = windows.cpu().numpy()
        ids = torch.from_numpy(self._ids_WLK[rows].astype(np.int64)).to(device)
        log_p = torch.from_numpy(self._log_p_WLK[rows].astype(np.float32)).to(device)
        return TopTokens(ids.flatten(0, 1), log_p.flatten(0, 1))

    def _resume(self) -> None:
        """Count the windows of an earlier process, if they are what it wrote."""
        try:
            count = json.loads(self._count_path.read_bytes())
            windows, sha256 = count["windows"], count["sha256"]
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return  # none, or torn: nothing counts
        if isinstance(windows, int) and 0 < windows <= len(self._ids_WLK):
            digest = self._digest_of(range(windows))
            if digest.hexdigest() == sha256:
                self._digest, self._done = digest, windows

    def _count(self, windows: int) -> None:
        """Count windows that were stored, once they are on disk."""
        self._ids_WLK.flush()
        self._log_p_WLK.flush()
        self._digest = self._digest_of(range(self._done, windows))
        self._done = windows
        count = {"windows": windows, "sha256": self._digest.hexdigest()}
        with _storing(self._count_path):
            write_atomically(self._count_path, json.dumps(count).encode())

    def _digest_of(self, windows: range) -> hashlib._Hash:
        """The digest of the windows counted so far, followed by these."""
        digest = self._digest.copy()
        for window in windows:
            digest.update(self._ids_WLK[window])
            digest.update(self._log_p_WLK[window])
        return digest

    def _store(self, window: int, passes: Passes, states: Tensor) -> None:
        first = 0
        with torch.inference_mode():
            for logits in passes.predictions.logits(states):
                top, rows = TopTokens.of(logits, self._k), slice(first, first + len(logits))
                self._ids_WLK[window, rows] = top.ids.cpu().numpy()
                self._log_p_WLK[window, rows] = top.log_p.cpu().numpy()
                first += len(logits)


def check_teacher(teacher: Any, student: Any, tokenizers: tuple[Any, Any], text: str) -> None:
    """Check that the teacher has the student's tokens, by the configurations, and by the tokenizers on a text.

    Raises:
        BonsaiError: it has others.
    """
    theirs, ours = (tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers)
    if teacher.vocab_size != student.vocab_size or theirs != ours:
        raise BonsaiError(
            f"The teacher has other tokens than the model (vocabularies of {teacher.vocab_size:,} and "
            f"{student.vocab_size:,}), so it cannot be distilled from. Give another --teacher, or none."
        )


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """An array in a file; unless there is one of its size, the file is made, as a whole or not at all."""
    num_bytes = math.prod(shape) * kind.itemsize
    if not path.is_file() or path.stat().st_size != num_bytes:
        with _storing(path), atomic_file(path) as partial, partial.open("xb") as file:
            file.truncate(num_bytes)
            if hasattr(os, "posix_fallocate"):  # otherwise a write to a full disk would kill the process
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    return np.memmap(path, dtype=kind, mode="r+", shape=shape)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BonsaiError(
            f"What the teacher says cannot be stored in {path}: {error}. Make room, then resume."
        ) from None
