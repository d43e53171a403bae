"""Token ids of a text, as far as they are needed.

Legend for array shapes: T = tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bonsai_core.sources.chat import render
from bonsai_core.sources.text import LARGE, PIECE, Piece, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACES = LARGE // PIECE
"""Parts of a large text that are sampled equally often."""


def tokenize(text: Text, tokenizer: PreTrainedTokenizerBase, enough: float = math.inf) -> NDArray[np.int32]:
    """A text as one stream of token ids, int32 [T], with no special tokens added; a chat as its template writes it.

    A large text is tokenised a piece at a time, so that a token across the border of two pieces becomes two.

    Args:
        enough: of a large text, no further piece is read after this many tokens.
    """
    if not text.is_large:
        return _ids(text, text.pieces, tokenizer)
    ids: list[NDArray[np.int32]] = []
    total = 0
    for piece in text.pieces:
        if ids and total >= enough:
            break
        ids.append(_ids(text, (piece,), tokenizer))
        total += len(ids[-1])
    return np.concatenate(ids)


def sampled(text: Text, tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[NDArray[np.int32]]:
    """The pieces of a large text, about four million characters at a time: each time one from every place in it.

    Within one array, int32 [T], pieces are in the order of the text.
    """
    places = np.array_split(np.arange(len(text.pieces)), PLACES)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(place) for place in places]
    for turn in range(max(map(len, orders))):
        chosen = [order[turn] for order in orders if turn < len(order)]
        yield np.concatenate([_ids(text, (text.pieces[index],), tokenizer) for index in chosen])


def _ids(text: Text, pieces: Sequence[Piece], tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int32]:
    content = "".join(piece.read() for piece in pieces)
    encoded = tokenizer(
        render(content, tokenizer, text.name) if text.chat else content,
        add_special_tokens=False,
        return_attention_mask=False,
        verbose=False,  # no "sequence longer than the maximum": windows are cut from it
    )
    return np.asarray(encoded["input_ids"], dtype=np.int32)
