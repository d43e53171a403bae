"""The dense model's side of the distillation: computed once and stored compactly, or asked at every step.

Legend for array shapes: W = windows, L = tokens of a window, K = stored log-probabilities per token.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.adaptation.loss import TopTokens
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.passes import Passes
from bonsai_core.rundir import write_atomically
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Step

SMALL_VOCABULARY = 2**16
"""Up to this size, token ids are stored in two bytes."""


class StoredTeacher:
    """A teacher's likeliest tokens for every window of the schedule, in files that are mapped, not read.

    A token takes 4 (vocabularies up to 65,536) or 6 bytes for each of its K log-probabilities, and 2 for the bucket.
    Consecutive windows are stored in parts, each written by one process: ``windows-FIRST.bin`` and, beside it, the
    number of its windows that are stored, with their digest. A part that was damaged since is computed again.

    Args:
        shape: windows, predicted tokens per window, K.
    """

    def __init__(self, directory: Path, shape: tuple[int, int, int], vocabulary: int) -> None:
        self._directory = directory
        self._windows, tokens, self._k = shape
        ids = np.uint16 if vocabulary <= SMALL_VOCABULARY else np.int32
        self._kind = np.dtype([("ids", ids, (tokens, self._k)), ("log_p", np.float16, (tokens, self._k + 1))])
        with _storing(directory):
            directory.mkdir(exist_ok=True)
        found = (self._read(path) for path in sorted(directory.glob("windows-*.json")))
        self._parts = sorted((part for part in found if part is not None), key=lambda part: part.windows.start)

    @property
    def missing(self) -> list[range]:
        """The windows that are not stored yet, in order."""
        starts = [0, *(part.windows.stop for part in self._parts)]
        stops = [*(part.windows.start for part in self._parts), self._windows]
        return [range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]

    @property
    def complete(self) -> bool:
        """Whether all windows are stored."""
        return not self.missing

    @staticmethod
    def num_bytes(shape: tuple[int, int, int], vocabulary: int) -> int:
        """Size of the files."""
        windows, tokens, k = shape
        return windows * tokens * (k * (2 if vocabulary <= SMALL_VOCABULARY else 4) + 2 * (k + 1))

    def compute(
        self,
        windows: Sequence[range],
        passes: Passes,
        windows_WL: NDArray[np.int64],
        record: Callable[[Step, Payload, float], None],
    ) -> None:
        """Run the teacher over windows that are missing, each range of which becomes a part.

        Args:
            record: receives a step and the seconds it took, whenever more windows are stored.

        Raises:
            BonsaiError: the disk is full or not writable.
        """
        for part in windows:
            self._compute(part, passes, windows_WL, record)
        self._parts.sort(key=lambda part: part.windows.start)

    def tokens(self, windows: Tensor, device: torch.device) -> TopTokens:
        """Those of some windows, consecutively."""
        rows = np.stack([self._row(window) for window in windows.tolist()])
        ids = torch.from_numpy(rows["ids"].astype(np.int64)).to(device)
        log_p = torch.from_numpy(rows["log_p"].astype(np.float32)).to(device)
        return TopTokens(ids.flatten(0, 1), log_p.flatten(0, 1))

    def _row(self, window: int) -> Any:
        part = self._parts[bisect_right(self._parts, window, key=lambda part: part.windows.start) - 1]
        return part.rows[window - part.windows.start]

    def _compute(
        self,
        windows: range,
        passes: Passes,
        windows_WL: NDArray[np.int64],
        record: Callable[[Step, Payload, float], None],
    ) -> None:
        first = done = windows.start
        path, digest, started = self._path(first), hashlib.sha256(), time.monotonic()
        for damaged in (self._count_path(first), path):
            damaged.unlink(missing_ok=True)
        with _storing(path), path.open("xb") as file:
            for start, hidden in passes.last_hidden(windows_WL[first : windows.stop]):
                for states in hidden:
                    row = self._stored(passes, states[:-1]).tobytes()
                    file.write(row)
                    digest.update(row)
                file.flush()
                os.fsync(file.fileno())
                number = first + start + len(hidden)
                count = {"windows": number - first, "sha256": digest.hexdigest()}
                write_atomically(self._count_path(first), json.dumps(count).encode())
                now = time.monotonic()
                record(Step(f"teacher/{done}"), {"windows": number}, now - started)
                done, started = number, now
        self._parts.append(_Part(windows, self._mapped(path, len(windows))))

    def _stored(self, passes: Passes, states: Tensor) -> NDArray[np.void]:
        """A window as it is stored."""
        row, first = np.empty((), self._kind), 0
        with torch.inference_mode():
            for logits in passes.predictions.logits(states):
                top, tokens = TopTokens.of(logits, self._k), slice(first, first + len(logits))
                row["ids"][tokens] = top.ids.cpu().numpy()
                row["log_p"][tokens] = top.log_p.cpu().numpy()
                first += len(logits)
        return row

    def _read(self, count_path: Path) -> _Part | None:
        """A part of an earlier process, if it is what that wrote."""
        try:
            count = json.loads(count_path.read_bytes())
            first, windows, sha256 = int(count_path.stem.partition("-")[2]), count["windows"], count["sha256"]
            if not (isinstance(windows, int) and first >= 0 and 0 < windows <= self._windows - first):
                return None
            rows = self._mapped(self._path(first), windows)
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return None  # none, or torn: nothing counts
        digest = hashlib.sha256()
        for row in rows:
            digest.update(row.tobytes())
        return _Part(range(first, first + windows), rows) if digest.hexdigest() == sha256 else None

    def _mapped(self, path: Path, windows: int) -> NDArray[np.void]:
        return np.memmap(path, dtype=self._kind, mode="r", shape=(windows,))

    def _path(self, first: int) -> Path:
        return self._directory / f"windows-{first}.bin"

    def _count_path(self, first: int) -> Path:
        return self._directory / f"windows-{first}.json"


@dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive windows that are stored, and where."""

    windows: range
    rows: NDArray[np.void]


def share_of(missing: Sequence[range], rank: int, ranks: int) -> list[range]:
    """The windows that one of several processes computes, about as many as each of the others."""
    total = sum(map(len, missing))
    first, last = total * rank // ranks, total * (rank + 1) // ranks
    own, passed = [], 0
    for windows in missing:
        own.append(windows[max(0, first - passed) : max(0, last - passed)])
        passed += len(windows)
    return [windows for windows in own if windows]


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


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BonsaiError(
            f"What the teacher says cannot be stored in {path}: {error}. Make room, then resume."
        ) from None
