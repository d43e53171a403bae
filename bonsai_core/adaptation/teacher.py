"""The dense model's side of the distillation: computed once and stored compactly, or asked at every step.

Legend for array shapes: W = windows, L = tokens of a window, K = stored log-probabilities per token.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.adaptation.loss import TopTokens
from bonsai_core.errors import BonsaiError
from bonsai_core.model.passes import Passes
from bonsai_core.rundir import Journal

SMALL_VOCABULARY = 2**16
"""Up to this size, token ids are stored in two bytes."""


def check_top_k(k: int, vocabulary: int) -> None:
    """Refuse to store as the likeliest tokens all that there are.

    Raises:
        BonsaiError: `k` is no less than the vocabulary.
    """
    if k >= vocabulary:
        raise BonsaiError(f"--teacher-top-k {k} is no less than the vocabulary of {vocabulary:,}; 0 takes all.")


class StoredTeacher:
    """A teacher's likeliest tokens for every window of the course, in two files that are mapped, not read.

    A token takes 4 (vocabularies up to 65,536) or 6 bytes for each of its K log-probabilities, and 2 for the bucket.

    Args:
        directory: where the files lie.
        shape: windows, predicted tokens per window, K.
        vocabulary: tokens there are.
    """

    def __init__(self, directory: Path, shape: tuple[int, int, int], vocabulary: int) -> None:
        windows, tokens, k = shape
        self._k = k
        kind = np.dtype(np.uint16 if vocabulary <= SMALL_VOCABULARY else np.int32)
        directory.mkdir(exist_ok=True)
        self._ids_WLK, new_ids = _mapped(directory / "ids.npy", kind, (windows, tokens, k))
        self._log_p_WLK, new_log_p = _mapped(directory / "log_p.npy", np.dtype(np.float16), (windows, tokens, k + 1))
        self._done, _ = _mapped(directory / "windows.npy", np.dtype(np.int64), (1,))
        if new_ids or new_log_p:
            self._done[0] = 0

    @property
    def complete(self) -> bool:
        """Whether all windows are there."""
        return int(self._done[0]) == len(self._ids_WLK)

    @staticmethod
    def num_bytes(shape: tuple[int, int, int], vocabulary: int) -> int:
        """What the files will take."""
        windows, tokens, k = shape
        return windows * tokens * (k * (2 if vocabulary <= SMALL_VOCABULARY else 4) + 2 * (k + 1))

    def compute(
        self, passes: Passes, windows_WL: NDArray[np.int64], journal: Journal, progress: Callable[[int], None]
    ) -> None:
        """Run the teacher over all windows that are not there yet.

        Args:
            journal: notes how long each batch took.
            progress: told how many windows are done.
        """
        first = done = int(self._done[0])
        progress(done)
        started = time.monotonic()
        for start, hidden in passes.batches(windows_WL[first:]):
            for window, states in enumerate(hidden, start=first + start):
                self._store(window, passes, states[:-1])
            self._ids_WLK.flush()
            self._log_p_WLK.flush()
            self._done[0] = number = first + start + len(hidden)
            self._done.flush()
            now = time.monotonic()
            if f"teacher/{done}" not in journal:
                journal.append(f"teacher/{done}", {"windows": number}, now - started)
            done, started = number, now
            progress(done)

    def tokens(self, windows: Tensor, device: torch.device) -> TopTokens:
        """Those of some windows, one window after the other."""
        rows = windows.cpu().numpy()
        ids = torch.from_numpy(self._ids_WLK[rows].astype(np.int64)).to(device)
        log_p = torch.from_numpy(self._log_p_WLK[rows].astype(np.float32)).to(device)
        return TopTokens(ids.flatten(0, 1), log_p.flatten(0, 1))

    def _store(self, window: int, passes: Passes, states: Tensor) -> None:
        first = 0
        with torch.inference_mode():
            for logits in passes.logits(states):
                top, rows = TopTokens.of(logits, self._k), slice(first, first + len(logits))
                self._ids_WLK[window, rows] = top.ids.cpu().numpy()
                self._log_p_WLK[window, rows] = top.log_p.cpu().numpy()
                first += len(logits)


def check_teacher(teacher: Any, student: Any, tokenizers: tuple[Any, Any], text: str) -> None:
    """Check that the teacher speaks the student's tokens.

    Args:
        teacher, student: the models' configurations.
        tokenizers: of both.
        text: something to try them on.

    Raises:
        BonsaiError: it does not.
    """
    theirs, ours = (tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers)
    if teacher.vocab_size != student.vocab_size or theirs != ours:
        raise BonsaiError(
            f"The teacher has other tokens than the model (vocabularies of {teacher.vocab_size:,} and "
            f"{student.vocab_size:,}), so it cannot be distilled from. Give another --teacher, or none."
        )


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> tuple[np.memmap[Any, Any], bool]:
    """An array in a file, and whether that had to be made."""
    if path.is_file():
        found: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r+")
        if found.shape == shape and found.dtype == kind:
            return found, False
    try:
        made: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
        if hasattr(os, "posix_fallocate"):  # or a disk that gets full would end the process where it writes
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BonsaiError(
            f"What the teacher says cannot be stored in {path}: {error}. Make room, then resume."
        ) from None
    return made, True
