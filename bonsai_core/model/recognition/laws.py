"""The laws of slicing: whether a declaration fits a model.

Each takes a small float32 model with random weights that are not tiny, and returns what does not hold, or None.
`recognise` checks them, and `FamilyContract` of `bonsai_core.testing` does with more keep vectors and implementations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.causal_lm import CausalLM
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site, UnitTable
from bonsai_core.upstream import cache_argument, cache_of

BATCH, TOKENS, PROMPT = 2, 9, 5
TOLERANCE = 1e-4
"""Largest difference between logits that should be equal, relative to the largest logit."""


def family_mismatch(model: Any, family: Family) -> str | None:
    """What does not hold of a model and its declared family; None if all does.

    Some units of every site are masked, then sliced away: the model cannot be used afterwards.
    """
    try:
        subject = Subject(model, family)
        if family.attention is not None and subject.family.attention is None:
            return "attention stays whole"
        dropped = dict(_some_units(subject.table))
        keep_U = subject.table.keep_all()
        for units in dropped.values():
            keep_U[units] = False
        return (
            head_mismatch(model)
            or idle_units(subject, ((site, _without(subject.table, units)) for site, units in dropped.items()))
            or slicing_mismatch(subject, keep_U)
        )
    except (BonsaiError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def head_mismatch(model: CausalLM, tolerance: float = TOLERANCE) -> str | None:
    """Whether `Head` gives the model's own logits."""
    with torch.inference_mode():
        hidden = model.base_model(input_ids=few_tokens(model), use_cache=False).last_hidden_state
        by_head = Head(model).logits(hidden)
    if not _equal(by_head, logits(model), tolerance):
        return "its logits are not its head's, applied to its last hidden states"
    return None


def idle_units(subject: Subject, without: Iterable[tuple[Site, NDArray[np.bool_]]]) -> str | None:
    """Whether dropping units makes a difference: of each site those that its keep vector drops."""
    dense = logits(subject.model)
    for site, keep_U in without:
        with subject.masked(keep_U):
            if torch.equal(logits(subject.model), dense):
                return f"units of {site.name} make no difference"
    return None


def slicing_mismatch(subject: Subject, keep_U: NDArray[np.bool_], tolerance: float = TOLERANCE) -> str | None:
    """Whether slicing gives the logits of masking, with and without a key-value cache, and frees what it should.

    The model is sliced afterwards.
    """
    model = subject.model
    with subject.masked(keep_U):
        masked = logits(model)
    before = num_params(model)
    subject.slice(keep_U)
    if not _equal(logits(model), masked, tolerance):
        return "slicing units away is not the same as masking them"
    if not _equal(logits_with_cache(model), masked, tolerance):
        return "with a key-value cache the sliced model has other logits"
    freed, priced = before - num_params(model), subject.table.removed_params(keep_U)
    return None if freed == priced else f"slicing freed {freed} parameters instead of {priced}"


def logits(model: CausalLM) -> Tensor:
    """Logits [batch, tokens, vocabulary] of a few fixed tokens, all at once."""
    with torch.inference_mode():
        result: Tensor = model(input_ids=few_tokens(model), use_cache=False).logits
    return result


def logits_with_cache(model: Any) -> Tensor:
    """The same, the first tokens at once and the others one by one, keys and values from the cache."""
    ids, cache, pieces = few_tokens(model), None, []
    with torch.inference_mode():
        for piece in (ids[:, :PROMPT], *torch.split(ids[:, PROMPT:], 1, dim=1)):
            output = model(input_ids=piece, use_cache=True, **cache_argument(model, cache))
            cache = cache_of(output)
            pieces.append(output.logits)
    return torch.cat(pieces, dim=1)


def few_tokens(model: CausalLM) -> Tensor:
    """The tokens that laws are checked on, int64 [batch, tokens]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (BATCH, TOKENS), generator=generator)


def num_params(model: CausalLM) -> int:
    """Parameters of a model, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _some_units(table: UnitTable) -> Iterable[tuple[Site, NDArray[np.int64]]]:
    """A third of every site's units, if that leaves enough."""
    rng = np.random.default_rng(0)
    for site in table:
        few = min(max(1, site.num_units // 3), site.num_units - max(1, site.minimum))
        units = site.first + rng.permutation(site.num_units)[:few]
        if few:
            yield site, units


def _without(table: UnitTable, units: NDArray[np.int64]) -> NDArray[np.bool_]:
    keep_U = table.keep_all()
    keep_U[units] = False
    return keep_U


def _equal(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    atol = tolerance * float(expected.abs().max())
    return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=0, atol=atol)
