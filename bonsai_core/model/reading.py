"""What a model asks of the windows it reads: how they begin, and how long they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError


def start_token(family: Family | None, tokenizer: Any) -> int | None:
    """The token that every window has to begin with, if the family wants one."""
    if family is None or not family.starts_with_bos:
        return None
    token: int | None = tokenizer.bos_token_id
    return token


def check_positions(config: Any, family: Family | None, sequence_length: int, warn: Callable[[str], None]) -> None:
    """Tell that windows are longer than what the model was made for: perplexities on them say little.

    Raises:
        BonsaiError: the model has no weights for so many positions.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is None or sequence_length <= most:
        return
    text = f"Windows of {sequence_length:,} tokens are longer than the {most:,} positions the model was made for."
    if family is not None and family.learned_positions:
        raise BonsaiError(f"{text} It has none beyond: give a shorter --sequence-length and --eval-sequence-length.")
    warn(text)
