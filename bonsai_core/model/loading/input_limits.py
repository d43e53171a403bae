"""What a model requires of the windows it reads: how they begin, which tokens they have, how long they can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError

NAMED_TOKENS = 5


def start_token(family: Family | None, tokenizer: Any) -> int | None:
    """The token that every window has to begin with, if the family needs one.

    Raises:
        BonsaiError: it does, and the tokenizer has none.
    """
    if family is None or not family.starts_with_bos:
        return None
    token: int | None = tokenizer.bos_token_id
    if token is None:
        raise BonsaiError(
            f"Models of the family {family.name!r} read text that begins with a BOS token, and break down without it; "
            f"the tokenizer of this one has none. Set bos_token in its tokenizer_config.json (Gemma's is '<bos>')."
        )
    return token


def check_tokens(config: Any, tokenizer: Any, token_ids: Iterable[NDArray[np.int64]]) -> None:
    """Check that the model's embeddings have a row for each of some token ids, int64 of any shape.

    Raises:
        BonsaiError: they have not; the message names the tokens.
    """
    rows = config.get_text_config().vocab_size
    beyond = sorted({int(token) for ids in token_ids for token in np.unique(ids[ids >= rows])})
    if beyond:
        named = ", ".join(f"{tokenizer.convert_ids_to_tokens(token)!r} ({token})" for token in beyond[:NAMED_TOKENS])
        raise BonsaiError(
            f"The text has tokens beyond the model's {rows:,} embedding rows: {named}"
            f"{' ...' if len(beyond) > NAMED_TOKENS else ''}. Its tokenizer has {len(tokenizer):,} tokens: some were "
            f"added without model.resize_token_embeddings(len(tokenizer)). Resize them and save the model again, or "
            f"give text without these tokens."
        )


@contextmanager
def tokens_checked(model: Any, tokenizer: Any) -> Iterator[None]:
    """Check everything that others put through a model; on a GPU a token beyond would end the process."""

    def check(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        check_tokens(model.config, tokenizer, [args[0].cpu().numpy()])

    with model.get_input_embeddings().register_forward_pre_hook(check):
        yield


def check_positions(config: Any, family: Family | None, sequence_length: int, warn: Callable[[str], None]) -> None:
    """Warn if windows are longer than the model was made for: perplexities on them say little.

    Raises:
        BonsaiError: the model has no weights for positions that far.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is None or sequence_length <= most:
        return
    text = f"Windows of {sequence_length:,} tokens are longer than the {most:,} positions the model was made for."
    if family is not None and family.learned_positions:
        raise BonsaiError(f"{text} It has none beyond: give a shorter --sequence-length and --eval-sequence-length.")
    warn(text)
