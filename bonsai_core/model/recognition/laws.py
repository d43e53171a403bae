"""Whether a declaration fits a model: the laws of slicing, checked on the spot."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.subject import Subject

BATCH, TOKENS, PROMPT = 2, 9, 5
TOLERANCE = 1e-4


def family_mismatch(model: Any, family: Family) -> str | None:
    """What does not hold of a model and its declared family; None if all does.

    Units of every site are masked, then sliced away: logits must stay, parameters must be as priced, and dropping units
    must make a difference. The model is spent afterwards.

    Args:
        model: small, float32, with random weights that are not tiny.
    """
    try:
        subject = Subject(model, family)
        if family.attention is not None and subject.family.attention is None:
            return "attention stays whole"
        dense = logits(model)
        with torch.inference_mode():
            hidden = model.base_model(input_ids=few_tokens(model), use_cache=False).last_hidden_state
            by_head = Head(model).logits(hidden)
        if not _equal(by_head, dense):
            return "its logits are not its head's, applied to its last hidden states"
        keep_U = subject.table.keep_all()
        rng = np.random.default_rng(0)
        for site in subject.table:
            few = min(max(1, site.num_units // 3), site.num_units - max(1, site.minimum))
            gone = site.first + rng.permutation(site.num_units)[:few]
            keep_U[gone] = False
            here_U = subject.table.keep_all()
            here_U[gone] = False
            with subject.masked(here_U):
                if few and torch.equal(logits(model), dense):
                    return f"units of {site.name} make no difference"
        with subject.masked(keep_U):
            masked = logits(model)
        before = sum(parameter.numel() for parameter in model.parameters())
        subject.slice(keep_U)
        if not _equal(logits(model), masked):
            return "slicing units away is not the same as masking them"
        if not _equal(logits_with_cache(model), masked):
            return "with a key-value cache the logits of the sliced model are others"
        freed = before - sum(parameter.numel() for parameter in model.parameters())
    except (BonsaiError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    if freed != subject.table.removed_params(keep_U):
        return f"slicing freed {freed} parameters instead of {subject.table.removed_params(keep_U)}"
    return None


def logits(model: Any) -> Tensor:
    """Logits [batch, tokens, vocabulary] of a few fixed tokens, all at once."""
    with torch.inference_mode():
        result: Tensor = model(input_ids=few_tokens(model), use_cache=False).logits
    return result


def logits_with_cache(model: Any) -> Tensor:
    """The same, the first tokens at once and the others one by one, keys and values from the cache."""
    ids = few_tokens(model)
    pieces = []
    cache = None
    with torch.inference_mode():
        for piece in (ids[:, :PROMPT], *torch.split(ids[:, PROMPT:], 1, dim=1)):
            output = model(input_ids=piece, use_cache=True, **with_cache(model, cache))
            cache = output.cache if "cache" in output else output.past_key_values
            pieces.append(output.logits)
    return torch.cat(pieces, dim=1)


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The argument that hands over a key-value cache: `cache` since transformers 5.24, `past_key_values` before."""
    return {"cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values": cache}


def few_tokens(model: Any) -> Tensor:
    """The tokens that laws are checked on, int64 [batch, tokens]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (BATCH, TOKENS), generator=generator)


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())
    )
