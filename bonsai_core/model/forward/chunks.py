"""Windows of text in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from bonsai_core.errors import BonsaiError

Output = TypeVar("Output")

CPU_TOKENS, GPU_TOKENS = 512, 8192
"""Tokens of a pass: on CPUs, what lies between two products must stay in the caches; GPUs wait for work below 2,000."""


class Chunks:
    """Cuts windows into chunks of a number of tokens, which shrinks when the device runs out of memory.

    Args:
        tokens: of a chunk, at most; a window longer than that is a chunk of its own.
        on_warning: is notified when chunks shrink.
        on_tokens: receives the number of tokens of every pass.
    """

    def __init__(
        self, tokens: int, on_warning: Callable[[str], None], on_tokens: Callable[[int], None] | None = None
    ) -> None:
        self.tokens = tokens
        self._warn = on_warning
        self._count = on_tokens

    def windows(self, length: int) -> int:
        """Windows of this many tokens in one chunk."""
        return max(1, self.tokens // max(1, length))

    def run(self, num_windows: int, length: int, forward: Callable[[slice], Output]) -> Iterator[tuple[slice, Output]]:
        """(windows, `forward` of them) for all windows; a chunk that does not fit into memory is halved.

        Args:
            length: tokens of each window.

        Raises:
            BonsaiError: a single window does not fit.
        """
        start = 0
        while start < num_windows:
            windows = slice(start, min(start + self.windows(length), num_windows))
            try:
                with torch.inference_mode():
                    output = forward(windows)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                self._halve(windows.stop - windows.start, length, error)
                continue
            yield windows, output
            start = windows.stop

    def count(self, tokens: int) -> None:
        """Notify that this many tokens went through the model."""
        if self._count:
            self._count(tokens)

    def _halve(self, windows: int, length: int, error: RuntimeError) -> None:
        if windows == 1:
            raise BonsaiError(
                "The device ran out of memory on a single window. Use a shorter --sequence-length, "
                f"a smaller --dtype, or another --device. ({str(error).splitlines()[0]})"
            ) from error
        self.tokens = windows // 2 * length
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._warn(
            f"The device ran out of memory: a pass now takes {self.tokens} tokens instead of {windows * length}."
        )


def default_tokens(device: torch.device) -> int:
    """Tokens of a pass where nothing is known but the kind of device."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that: CUDA has an exception for it, CPU and MPS only words."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
