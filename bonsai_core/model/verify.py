"""Whether a declaration fits a model: the laws of slicing, checked on the spot."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.head import Head
from bonsai_core.model.subject import Subject

TOKENS, TOLERANCE = 8, 1e-4


def misfit(model: Any, family: Family) -> str | None:
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
        dense = _logits(model)
        with torch.inference_mode():
            hidden = model.base_model(input_ids=_tokens(model), use_cache=False).last_hidden_state
            by_head = Head(model).logits(hidden)
        if not _equal(by_head, dense):
            return "its logits are not its head's, applied to its last hidden states"
        keep_U = subject.table.keep_all()
        rng = np.random.default_rng(0)
        for site in subject.table:
            few = min(max(1, site.num_units // 3), site.num_units - max(1, site.least))
            gone = site.first + rng.permutation(site.num_units)[:few]
            keep_U[gone] = False
            here_U = subject.table.keep_all()
            here_U[gone] = False
            with subject.masked(here_U):
                if few and torch.equal(_logits(model), dense):
                    return f"units of {site.name} make no difference"
        with subject.masked(keep_U):
            masked = _logits(model)
        before = sum(parameter.numel() for parameter in model.parameters())
        subject.slice(keep_U)
        if not _equal(_logits(model), masked):
            return "slicing units away is not the same as masking them"
        freed = before - sum(parameter.numel() for parameter in model.parameters())
    except (BonsaiError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    if freed != subject.table.removed_params(keep_U):
        return f"slicing freed {freed} parameters instead of {subject.table.removed_params(keep_U)}"
    return None


def _tokens(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (2, TOKENS), generator=generator)


def _logits(model: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=_tokens(model), use_cache=False).logits
    return found


def _equal(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max())
    )
