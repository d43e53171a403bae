"""Whether a model that was exported is, in its own runtime, the one that transformers loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Checkpoint
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.load import load_model, load_tokenizer
from bonsai_core.model.storage.memory import drop_weights
from bonsai_core.runtimes.runner import RunningModel

NEW_TOKENS = 24
PROMPT_TOKENS = 8
TEXT = (
    "The history of the bicycle begins in the early nineteenth century, when a German baron built a wooden frame with "
    "two wheels in line. It had no pedals; the rider pushed against the ground with his feet. Later inventors in "
    "France and England added pedals, chains and rubber tyres."
)


@dataclass(frozen=True)
class Reference:
    """What transformers computes in float32.

    Attributes:
        tokens: of a text.
        log_probabilities: of tokens[1:], each given those before it, nats.
        prompt: the first of these tokens.
        continuation: the likeliest next token, again and again.
        lead: by how much each was likelier than the second, nats.
    """

    tokens: list[int]
    log_probabilities: NDArray[np.float64]
    prompt: list[int]
    continuation: list[int]
    lead: NDArray[np.float64]


@dataclass(frozen=True)
class Verification:
    """How a model in a runtime compares with transformers in float32.

    Attributes:
        runtime: with its version.
        tokens: how many log-probabilities were compared.
        difference: the largest of their absolute differences, nats.
        loss: mean negative log-likelihood of the text there, nats per token.
        reference_loss: the same in transformers.
        same_tokens: how many generated tokens are the same, of `new_tokens`; those after a tie are not compared.
        tolerance: what was allowed, nats; None where it differs on purpose.
    """

    runtime: str
    tokens: int
    difference: float
    loss: float
    reference_loss: float
    same_tokens: int
    new_tokens: int
    tolerance: float | None


def reference(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Reference:
    """What transformers computes in float32 for a short text.

    Raises:
        BonsaiError: the model cannot be loaded.
    """
    source, family = str(checkpoint.path), checkpoint.family
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    tokens = [int(token) for token in tokenizer.encode(TEXT, add_special_tokens=False)]
    if family is not None and family.starts_with_bos and tokenizer.bos_token_id is not None:
        tokens = [tokenizer.bos_token_id, *tokens]
    model = load_model(source, dtype="float32", device="cpu", trust_remote_code=trust_remote_code)
    tokens = tokens[: getattr(model.config, "max_position_embeddings", None) or len(tokens)]
    given = _log_probabilities(model, tokens)
    told = given[np.arange(len(tokens) - 1), tokens[1:]]
    prompt = tokens[:PROMPT_TOKENS]
    written, leads = list(prompt), []
    for _ in range(NEW_TOKENS):
        last = _log_probabilities(model, [*written, 0])[-1]
        second, first = np.argsort(last)[-2:]
        leads.append(last[first] - last[second])
        written.append(int(first))
    drop_weights(model)  # a runtime loads it next
    return Reference(tokens, told, prompt, written[len(prompt) :], np.array(leads))


def compare(model: RunningModel, expected: Reference, tolerance: float | None) -> Verification:
    """A model in its runtime beside transformers.

    Raises:
        BonsaiError: it is another model.
    """
    told = np.array(model.log_probabilities(expected.tokens))
    if told.shape != expected.log_probabilities.shape or not np.isfinite(told).all():
        raise BonsaiError(f"{model.runtime} gives log-probabilities that are not finite, or not one for each token.")
    difference = float(np.abs(told - expected.log_probabilities).max())
    written = model.generate(expected.prompt, NEW_TOKENS)
    if len(written) != NEW_TOKENS:
        raise BonsaiError(f"{model.runtime} generates {len(written)} tokens where it is asked for {NEW_TOKENS}.")
    pairs = enumerate(zip(written, expected.continuation, strict=True))
    same = next((n for n, (token, other) in pairs if token != other), NEW_TOKENS)
    if tolerance is not None:
        tie = same < NEW_TOKENS and expected.lead[same] <= 2 * tolerance
        if difference > tolerance or (same < NEW_TOKENS and not tie):
            raise BonsaiError(
                f"In {model.runtime} it is another model than in transformers: log-probabilities differ by up to "
                f"{difference:.2g} (allowed {tolerance:g}), and {same} of {NEW_TOKENS} generated tokens are the same. "
                f"Do not use it, and report this with the settings and the model's config.json."
            )
    return Verification(
        model.runtime,
        len(told),
        difference,
        float(-told.mean()),
        float(-expected.log_probabilities.mean()),
        same,
        NEW_TOKENS,
        tolerance,
    )


def _log_probabilities(model: Any, tokens: list[int]) -> NDArray[np.float64]:
    """Of every token after each of tokens[:-1], float64 [tokens - 1, vocabulary]."""
    with torch.inference_mode():
        logits = model(torch.tensor([tokens[:-1]], device=model.device)).logits[0]
    given: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
    return given
