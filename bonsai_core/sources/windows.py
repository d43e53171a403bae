"""Tokenising a text and cutting it into windows.

Legend for array shapes: T = tokens of a whole text, N = windows, L = tokens in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.sources.text import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize(text: Text, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """The whole text as one stream of token ids, int64 [T], with no special tokens added."""
    encoded = tokenizer(
        text.text,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,  # no "sequence longer than the maximum": windows are cut from it
    )
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def take_windows(
    tokens: NDArray[np.int64],
    *,
    num_windows: int,
    sequence_length: int,
    seed: int | None,
    source: Text,
    skip: int = 0,
) -> NDArray[np.int64]:
    """Cut non-overlapping windows out of a token stream.

    The stream is divided into windows from its start; an incomplete last one is dropped. Where the text has
    fewer windows than asked for, all there are come back: compare `len(result)` with `num_windows` and warn.

    Args:
        tokens: int64 [T].
        num_windows: how many are wanted, N.
        sequence_length: tokens in each, L.
        seed: None takes the first N in order; otherwise N are drawn without replacement, and asking for more
            with the same seed keeps the ones drawn before.
        source: the text that the tokens are of, for error messages.
        skip: windows drawn before these; where the text has no more, it starts again with the first ones.

    Returns:
        int64 [min(N, T // L), L].

    Raises:
        BonsaiError: if the text is shorter than one window, or N or L is not positive.
    """
    if num_windows < 1 or sequence_length < 1:
        raise BonsaiError(
            f"Asked for {num_windows} windows of {sequence_length} tokens of {source.name!r}: both must be positive."
        )
    available = len(tokens) // sequence_length
    if available == 0:
        raise BonsaiError(
            f"{source.name!r} ({source.split}) has {len(tokens):,} tokens, fewer than one sequence of "
            f"{sequence_length:,}. Give a longer text, or a sequence length of {len(tokens):,} or less."
        )
    windows_NL = tokens[: available * sequence_length].reshape(available, sequence_length)
    if seed is None:
        return windows_NL[:num_windows].copy()
    order = np.roll(np.random.default_rng(seed).permutation(available), -skip)
    return windows_NL[order[:num_windows]]


def windows_of(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int,
    sequence_length: int,
    seed: int | None,
    what: str,
    warn: Callable[[str], None],
    start: int | None = None,
) -> NDArray[np.int64]:
    """Tokenise a text and cut it as `take_windows` does; `warn` is told where the `what` text has too few windows.

    Args:
        start: a token that every window begins with, one of its `sequence_length`.
    """
    length = sequence_length if start is None else sequence_length - 1
    tokens = tokenize(text, tokenizer)
    windows_NL = take_windows(tokens, num_windows=num_windows, sequence_length=length, seed=seed, source=text)
    if start is not None:
        windows_NL = np.insert(windows_NL, 0, start, axis=1)
    if len(windows_NL) < num_windows:
        warn(
            f"The {what} text has only {len(windows_NL)} windows of {sequence_length} tokens; "
            f"{num_windows} were asked for."
        )
    return windows_NL


class EvaluationSettings(Protocol):
    """Settings, of a run, an adaptation or an evaluation, that say how much text perplexity is measured on."""

    @property
    def eval_samples(self) -> int: ...
    @property
    def eval_sequence_length(self) -> int: ...


def evaluation_windows(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    config: EvaluationSettings,
    warn: Callable[[str], None],
    start: int | None,
) -> NDArray[np.int64]:
    """The first windows of a text, as configured; `warn` and `start` as for `windows_of`."""
    return windows_of(
        text,
        tokenizer,
        num_windows=config.eval_samples,
        sequence_length=config.eval_sequence_length,
        seed=None,
        what="evaluation",
        warn=warn,
        start=start,
    )
