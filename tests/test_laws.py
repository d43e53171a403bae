"""Laws of the model under pruning that no single plugin answers for, on pico models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PICOS, VOCABULARY, Pico
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, StaticCache

import bonsai_core.model.passes
from bonsai_core import BonsaiError, Registry, TokenMetric
from bonsai_core.config import Choice
from bonsai_core.model.passes import Passes
from bonsai_core.model.statistics import score_units
from bonsai_core.model.subject import Subject
from bonsai_core.testing.family import keep_vectors, logits, with_cache

NEW_TOKENS = 8


def subject_of(pico: Pico, registry: Registry) -> Subject:
    family = next(family for family in registry.families() if pico.family in family.model_types)
    return Subject(pico.build(), family)


def windows(num_windows: int = 5, sequence_length: int = 12) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(VOCABULARY, size=(num_windows, sequence_length))


def quiet(model: Any, batch_size: int = 4) -> Passes:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    return Passes(model, batch_size, on_warning=refuse)


@pytest.fixture
def model() -> Any:
    return PICOS[1].build()


@pytest.fixture
def kl(registry: Registry) -> Any:
    return registry.create("metric", Choice(name="kl"))


# Slicing


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_slicing_twice_equals_slicing_once_by_the_second_keep_vector(registry: Registry, pico: Pico) -> None:
    first_U, _, emptied_U = keep_vectors(subject_of(pico, registry).table)
    second_U = first_U & emptied_U
    twice, once = subject_of(pico, registry), subject_of(pico, registry)
    twice.slice(first_U)
    twice.slice(second_U)
    once.slice(second_U)
    assert torch.equal(logits(twice.model), logits(once.model))
    assert twice.layer_sizes() == once.layer_sizes()
    np.testing.assert_array_equal(twice.present_U, once.present_U)


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_masks_on_a_sliced_model_equal_masks_on_the_dense_one(registry: Registry, pico: Pico) -> None:
    first_U, _, emptied_U = keep_vectors(subject_of(pico, registry).table)
    both_U = first_U & emptied_U
    dense, sliced = subject_of(pico, registry), subject_of(pico, registry)
    sliced.slice(first_U)
    with dense.masked(both_U), sliced.masked(both_U):
        torch.testing.assert_close(logits(sliced.model), logits(dense.model), rtol=0, atol=1e-3)


def generated(model: Any, cache: str) -> Tensor:
    """Greedy continuation of two prompts; `loop` decodes by hand, as servers do."""
    prompt = torch.from_numpy(windows(2, 6))
    if cache in ("dynamic", "static"):
        result: Tensor = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation=cache,
        )
        return result
    past: Any = DynamicCache(config=model.config)
    if cache == "static loop":
        past = StaticCache(config=model.config, max_cache_len=prompt.shape[1] + NEW_TOKENS)
    text, piece = prompt, prompt
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            piece = model(input_ids=piece, use_cache=True, **with_cache(model, past)).logits[:, -1:].argmax(dim=-1)
            text = torch.cat([text, piece], dim=1)
    return text


@pytest.mark.parametrize("cache", ["dynamic", "static", "loop", "static loop"])
@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_the_sliced_model_writes_what_the_masked_one_writes(registry: Registry, pico: Pico, cache: str) -> None:
    for keep_U in keep_vectors(subject_of(pico, registry).table)[1:]:
        subject = subject_of(pico, registry)
        with subject.masked(keep_U):
            masked = generated(subject.model, "dynamic")
        assert not torch.equal(masked, generated(subject.model, "dynamic"))
        subject.slice(keep_U)
        torch.testing.assert_close(generated(subject.model, cache), masked, rtol=0, atol=0)


@pytest.mark.parametrize("site", ["layers.0.attention", "layers.1.mlp", "layers.2.attention"])
@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_an_emptied_sub_layer_is_its_bias(registry: Registry, pico: Pico, site: str) -> None:
    subject = subject_of(pico, registry)
    keep_U = subject.table.keep_all()
    keep_U[next(s for s in subject.table if s.name == site).units] = False
    with subject.masked(keep_U):
        masked = logits(subject.model)
    before = sum(parameter.numel() for parameter in subject.model.parameters())
    subject.slice(keep_U)
    torch.testing.assert_close(logits(subject.model), masked, rtol=0, atol=1e-4 * float(masked.abs().max()))
    after = sum(parameter.numel() for parameter in subject.model.parameters())
    assert before - after == subject.table.removed_params(keep_U)


def test_biases_are_priced(registry: Registry) -> None:
    plain, biased = (subject_of(pico, registry).table for pico in (PICOS[1], PICOS[3]))
    assert not PICOS[1].attention_bias
    assert PICOS[3].attention_bias
    for without, with_bias in zip(plain, biased, strict=True):
        rows = 2 if with_bias.kind == "mlp" else 2 * 8 + 2 * 8  # gate, up; two query heads, key head, value head
        assert with_bias.unit_params == without.unit_params + rows


# Priors in the model


@pytest.mark.parametrize("name", ["wanda", "activation", "fluctuation", "block-influence"])
@pytest.mark.parametrize("pico", PICOS[:3], ids=str)
def test_the_batch_size_and_slicing_do_not_change_a_prior(registry: Registry, pico: Pico, name: str) -> None:
    prior: Any = registry.create("prior", Choice(name=name))
    keep_U = keep_vectors(subject_of(pico, registry).table)[0]
    masked, sliced = subject_of(pico, registry), subject_of(pico, registry)
    sliced.slice(keep_U)
    scores = [
        score_units(subject, quiet(subject.model, batch_size), prior, windows(), keep_U, seed=0)
        for subject, batch_size in ((masked, 5), (masked, 2), (sliced, 5))
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-4)
    assert (scores[0] > 0).tolist() == keep_U.tolist()


# Metrics in the model


def test_the_dense_model_has_no_divergence_from_itself(model: Any, kl: TokenMetric) -> None:
    passes = quiet(model)
    assert passes.token_mean(kl.per_token, windows(), passes.dense_reference(windows())) == pytest.approx(0, abs=1e-6)


def test_kl_in_chunks_equals_the_plain_formula(
    model: Any, kl: TokenMetric, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(model, registry.family("llama"))
    keep_U = keep_vectors(subject.table)[0]
    ids = torch.from_numpy(windows())

    def log_probabilities() -> Tensor:
        with torch.inference_mode():
            result: Tensor = model(input_ids=ids).logits[:, :-1].double().log_softmax(dim=-1)
        return result

    monkeypatch.setattr(bonsai_core.model.passes, "CHUNK_LOGITS", 3 * VOCABULARY)
    dense, passes = log_probabilities(), quiet(model)
    reference = passes.dense_reference(windows())
    with subject.masked(keep_U):
        pruned, measured = log_probabilities(), passes.token_mean(kl.per_token, windows(), reference)
    assert measured == pytest.approx(float((dense.exp() * (dense - pruned)).sum(dim=-1).mean()), rel=1e-4)
    assert measured > 0.01


def test_perplexity_is_that_of_transformers(model: Any) -> None:
    ids = torch.from_numpy(windows())
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert quiet(model).perplexity(windows()) == pytest.approx(np.exp(loss), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_change_perplexity(model: Any, batch_size: int) -> None:
    whole = quiet(model, 5).perplexity(windows())
    assert quiet(model, batch_size).perplexity(windows()) == pytest.approx(whole, rel=1e-5)


def test_a_whole_vocabulary_of_logits_stands_for_few_tokens_at_once(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape))
    monkeypatch.setattr(bonsai_core.model.passes, "CHUNK_LOGITS", 4 * VOCABULARY)
    quiet(model).perplexity(windows())
    assert sum(rows for rows, _ in seen) == windows()[:, 1:].size
    assert max(rows * vocabulary for rows, vocabulary in seen) == 4 * VOCABULARY


# Memory


@contextmanager
def room_for(model: Any, num_windows: int) -> Iterator[None]:
    """A device that runs out of memory on batches of more windows."""

    def check(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(kwargs["input_ids"]) > num_windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore on that.")

    handle = model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_running_out_of_memory_halves_the_batch_and_changes_no_result(model: Any, kl: TokenMetric) -> None:
    expected = quiet(model).perplexity(windows())
    warnings: list[str] = []
    tokens: list[int] = []
    passes = Passes(model, 5, on_warning=warnings.append, on_tokens=tokens.append)
    with room_for(model, 2):
        reference = passes.dense_reference(windows())
        assert passes.perplexity(windows()) == pytest.approx(expected, rel=1e-5)
        assert passes.token_mean(kl.per_token, windows(), reference) == pytest.approx(0, abs=1e-6)
    assert warnings == ["The device ran out of memory: the batch is now 2 windows instead of 5."]
    assert sum(tokens) == 3 * windows().size


def test_running_out_of_memory_does_not_count_a_batch_twice_in_a_prior(registry: Registry) -> None:
    subject = subject_of(PICOS[1], registry)
    prior: Any = registry.create("prior", Choice(name="wanda"))
    keep_U = subject.table.keep_all()
    expected = score_units(subject, quiet(subject.model), prior, windows(), keep_U, seed=0)
    warnings: list[str] = []
    with room_in_the_last_layer(subject.model, 2):
        passes = Passes(subject.model, 5, on_warning=warnings.append)
        score = score_units(subject, passes, prior, windows(), keep_U, seed=0)
    assert len(warnings) == 1
    np.testing.assert_allclose(score, expected, rtol=1e-5)


@contextmanager
def room_in_the_last_layer(model: Any, num_windows: int) -> Iterator[None]:
    """Runs out late, when the first layers have already been seen."""

    def check(module: Any, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > num_windows:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.layers[-1].mlp.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def test_a_single_window_that_does_not_fit_is_an_error_that_says_what_to_do(model: Any) -> None:
    warnings: list[str] = []
    passes = Passes(model, 4, on_warning=warnings.append)
    with room_for(model, 0), pytest.raises(BonsaiError, match=r"single window.*--sequence-length.*2\.00 GiB"):
        passes.perplexity(windows())
    assert len(warnings) == 2


def test_other_errors_are_not_taken_for_a_lack_of_memory(model: Any) -> None:
    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.base_model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        quiet(model).perplexity(windows())
