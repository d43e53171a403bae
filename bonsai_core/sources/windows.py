"""Windows of token ids, cut from a text.

Legend for array shapes: T = tokens of a whole text, N = windows, L = tokens in a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.settings.common import CommonSettings
from bonsai_core.sources.mixture import apportioned, interleaved
from bonsai_core.sources.text import Text
from bonsai_core.sources.tokens import sampled, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def take_windows(
    tokens: NDArray[np.integer[Any]],
    *,
    num_windows: int,
    sequence_length: int,
    seed: int | Sequence[int] | None,
    source: Text,
) -> NDArray[np.int64]:
    """Cut non-overlapping windows out of a token stream.

    The stream is divided into windows from its start; an incomplete last one is dropped. A short text gives fewer
    windows: compare `len(result)` with `num_windows` and warn.

    Args:
        tokens: integers [T].
        num_windows: how many are wanted, N.
        sequence_length: tokens in each, L.
        seed: None takes the first N in order; otherwise N are drawn without replacement, and asking for more
            with the same seed keeps the ones drawn before.
        source: the text that the tokens are of, for error messages.

    Returns:
        int64 [min(N, T // L), L].

    Raises:
        BonsaiError: the text is shorter than one window, or N or L is not positive.
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
        return windows_NL[:num_windows].astype(np.int64)
    order = np.random.default_rng(seed).permutation(available)[:num_windows]
    return windows_NL[order].astype(np.int64)


def windows_of(
    source: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int,
    sequence_length: int,
    seed: int | None,
    what: str,
    warn: Callable[[str], None],
    start: int | None = None,
) -> NDArray[np.int64]:
    """Tokenise a text, as far as needed, and cut it as `take_windows` does; of several, each by its share.

    A large text is not tokenised whole. Without a seed, it is tokenised from its start until there are enough windows.
    With one, windows are drawn from random pieces all over the text, about four million characters at a time; further
    pieces are read only when these have no more windows, so asking for more keeps the windows drawn before. Windows of
    several texts are mixed evenly, so that consecutive ones are in about the same proportions.

    Args:
        what: what the text is for, for the warning that it has too few windows.
        start: a token that every window begins with, one of its `sequence_length`.
    """
    length = sequence_length if start is None else sequence_length - 1
    texts, parts = source.texts, []
    for text, wanted in zip(texts, apportioned(num_windows, source.fractions), strict=True):
        which = f"{what} text" if len(texts) == 1 else f"{what} text {text.name!r}"
        if wanted or len(texts) == 1:
            parts.append(_cut(text, tokenizer, wanted, length, seed))
            if len(parts[-1]) < wanted:
                warn(
                    f"The {which} has only {len(parts[-1])} windows of {sequence_length} tokens; "
                    f"{wanted} were asked for."
                )
        else:
            warn(f"The {which} is not used: its share of {num_windows} windows is less than one.")
    return _starting_with(start, interleaved(parts))


def training_windows(
    source: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int | None,
    sequence_length: int,
    seed: int,
    start: int | None = None,
) -> NDArray[np.int64]:
    """All windows of a text, in order; of a large one only `num_windows`, if given, drawn as by `windows_of`.

    Of several texts, as many windows as there are in their shares, each text's drawn and all mixed evenly.
    """
    length = sequence_length if start is None else sequence_length - 1
    texts, fractions = source.texts, source.fractions
    parts = []
    for text, fraction in zip(texts, fractions, strict=True):
        if num_windows is not None and text.is_large:
            parts.append(_drawn(text, tokenizer, math.ceil(fraction * num_windows), length, seed))
        else:
            tokens = tokenize(text, tokenizer)
            every = max(1, len(tokens) // length)
            parts.append(take_windows(tokens, num_windows=every, sequence_length=length, seed=None, source=text))
    if len(parts) > 1:
        total = math.floor(min(len(part) / fraction for part, fraction in zip(parts, fractions, strict=True)))
        counts = apportioned(total, fractions)
        parts = [_some(part, count, seed) for part, count in zip(parts, counts, strict=True)]
    return _starting_with(start, interleaved(parts))


def _some(windows_NL: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """This many of the windows, in order."""
    return windows_NL[np.sort(np.random.default_rng(seed).permutation(len(windows_NL))[:count])]


def _cut(
    text: Text, tokenizer: PreTrainedTokenizerBase, num_windows: int, length: int, seed: int | None
) -> NDArray[np.int64]:
    if seed is not None and text.is_large:
        return _drawn(text, tokenizer, num_windows, length, seed)
    tokens = tokenize(text, tokenizer, enough=num_windows * length)
    return take_windows(tokens, num_windows=num_windows, sequence_length=length, seed=seed, source=text)


def _drawn(
    text: Text, tokenizer: PreTrainedTokenizerBase, num_windows: int, length: int, seed: int
) -> NDArray[np.int64]:
    drawn: list[NDArray[np.int64]] = []
    missing, rest = num_windows, np.empty(0, dtype=np.int32)
    for turn, tokens in enumerate(sampled(text, tokenizer, seed)):
        rest = np.concatenate([rest, tokens])
        if len(rest) >= length:
            seeds = (seed, turn)
            drawn.append(take_windows(rest, num_windows=missing, sequence_length=length, seed=seeds, source=text))
            missing -= len(drawn[-1])
            rest = rest[len(rest) - len(rest) % length :]
        if missing <= 0:
            break
    if not drawn:  # raises: the text is too short
        return take_windows(rest, num_windows=num_windows, sequence_length=length, seed=seed, source=text)
    return np.concatenate(drawn)


def _starting_with(start: int | None, windows_NL: NDArray[np.int64]) -> NDArray[np.int64]:
    return windows_NL if start is None else np.insert(windows_NL, 0, start, axis=1)


def evaluation_windows(
    source: Text,
    tokenizer: PreTrainedTokenizerBase,
    config: CommonSettings,
    warn: Callable[[str], None],
    start: int | None,
) -> NDArray[np.int64]:
    """The first windows of a text, or of each of several, as configured; `warn` and `start` as for `windows_of`."""
    size = {"num_windows": config.eval_samples, "sequence_length": config.eval_sequence_length}
    return windows_of(source, tokenizer, **size, seed=None, what="evaluation", warn=warn, start=start)
