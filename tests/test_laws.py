"""Laws of the model under pruning that no single plugin answers for, on pico models."""

from __future__ import annotations

import gc
import mmap
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GROUPED, MIXTURES, PICOS, VOCABULARY, Pico, family_of
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, StaticCache

from bonsai_core import (
    BonsaiError,
    Compensator,
    Prior,
    Registry,
    Repair,
    Site,
    Statistic,
    TokenMetric,
)
from bonsai_core.config import PluginChoice
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.layer_totals import LayerTotals
from bonsai_core.model.forward.lockstep import Lockstep
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.statistics import site_repair, site_scores
from bonsai_core.model.recognition.laws import logits
from bonsai_core.model.storage.memory import release
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.model.subject import Subject
from bonsai_core.testing.family import keep_vectors
from bonsai_core.upstream import cache_argument

NEW_TOKENS = 5  # with the prompt of six, more than the windows of attention hold
CACHES = ["dynamic", "static", "loop", "static loop"]


def subject_of(pico: Pico, registry: Registry, *, units: Any = ("layer",)) -> Subject:
    return Subject(pico.build(), family_of(registry, pico), units=units)


def with_output(subject: Subject) -> list[Site]:
    return [site for site in subject.sites_present() if site.has_output]


def windows(num_windows: int = 5, sequence_length: int = 12) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(VOCABULARY, size=(num_windows, sequence_length))


def quiet(num_windows: int = 4) -> Chunks:
    """Chunks of a number of `windows`, which must not shrink."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return Chunks(num_windows * windows().shape[1], refuse)


def quiet_passes(model: Any, num_windows: int = 4, **settings: Any) -> Passes:
    return Passes(model, quiet(num_windows), **settings)


@pytest.fixture
def model() -> Any:
    return PICOS[1].build()


@pytest.fixture
def kl(registry: Registry) -> Any:
    return registry.create("metric", PluginChoice(name="kl"))


# Slicing


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_slicing_twice_equals_slicing_once_by_the_second_keep_vector(registry: Registry, pico: Pico) -> None:
    first_U, _, *emptied = keep_vectors(subject_of(pico, registry).table)
    for emptied_U in emptied:
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
    *_, emptied_U, shallow_U = keep_vectors(subject_of(pico, registry).table)
    both_U = emptied_U & shallow_U
    dense, sliced = subject_of(pico, registry), subject_of(pico, registry)
    sliced.slice(shallow_U)
    with dense.masked(both_U), sliced.masked(both_U):
        torch.testing.assert_close(logits(sliced.model), logits(dense.model), rtol=0, atol=1e-3)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and other systems keep their pages")
def test_slicing_gives_the_memory_of_mapped_weights_back(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(np.ones(16_000_000, dtype=np.float32).tobytes())
    mapped = torch.from_file(str(tmp_path / "weights"), size=16_000_000, dtype=torch.float32)
    first, second = mapped[:8_000_001].view(-1), mapped[8_000_001:]
    assert float(first.sum()) > 0 < float(second.sum())
    before = resident_mb()
    release(first)
    assert before - resident_mb() > 0.9 * 32
    assert bool((second == 1).all())


HOLES = """
import os
import torch
from bonsai_core.model.storage.memory import return_large_blocks
if os.fork():  # the child begins with the same memory
    os.wait()
else:
    return_large_blocks()
warm = torch.ones(31 << 18)  # glibc takes the size of what is freed for its new limit, up to 32 MiB
del warm
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
before = resident()
large = torch.ones(20 << 18)
behind = [torch.ones(1 << 10) for _ in range(64)]
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_matrices_leave_no_holes() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    given_back_mb, usual_mb = map(float, done.stdout.split())
    assert given_back_mb < 5
    assert usual_mb > 15


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
            piece = model(input_ids=piece, use_cache=True, **cache_argument(model, past)).logits[:, -1:].argmax(dim=-1)
            text = torch.cat([text, piece], dim=1)
    return text


@pytest.mark.parametrize(
    ("pico", "units"),
    [*((pico, ("layer",)) for pico in PICOS), *((pico, ("query", "layer")) for pico in GROUPED[1:3])],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_the_sliced_model_writes_what_the_masked_one_writes(registry: Registry, pico: Pico, units: Any) -> None:
    # transformers' Falcon with ALiBi fails with static caches
    caches = [cache for cache in CACHES if not (pico.option == "alibi" and "static" in cache)]
    dense, others = generated(subject_of(pico, registry).model, "dynamic"), []
    for keep_U in keep_vectors(subject_of(pico, registry, units=units).table)[1:]:
        subject = subject_of(pico, registry, units=units)
        with subject.masked(keep_U):
            masked = generated(subject.model, "dynamic")
        others.append(not torch.equal(masked, dense))
        subject.slice(keep_U)
        for cache in caches:
            assert torch.equal(generated(subject.model, cache), masked), cache
    assert any(others)


@pytest.mark.parametrize("site", ["layers.0.attention", "layers.1.mlp", "layers.2.attention"])
@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_an_emptied_sub_layer_is_its_bias(registry: Registry, pico: Pico, site: str) -> None:
    subject = subject_of(pico, registry)
    keep_U = subject.table.keep_all()
    emptied = next((s for s in subject.table if s.name == site), None)
    if emptied is None:
        pytest.skip("attention stays whole")
    keep_U[emptied.units] = False
    with subject.masked(keep_U):
        masked = logits(subject.model)
    before = sum(parameter.numel() for parameter in subject.model.parameters())
    subject.slice(keep_U)
    torch.testing.assert_close(logits(subject.model), masked, rtol=0, atol=1e-4 * float(masked.abs().max()))
    after = sum(parameter.numel() for parameter in subject.model.parameters())
    assert before - after == subject.table.removed_params(keep_U)


@pytest.mark.parametrize("pico", [PICOS[1], *MIXTURES], ids=str)
def test_nothing_of_a_layer_that_left_stays_in_memory(registry: Registry, pico: Pico) -> None:
    subject = subject_of(pico, registry, units=("attention", "mlp", "experts", "layer"))
    keep_U = subject.table.keep_all()
    for site in subject.table:
        keep_U[site.units] = site.layer != 2
    held = [weakref.ref(parameter) for parameter in subject.layers_present()[2].parameters()]
    subject.slice(keep_U)
    gc.collect()
    assert [parameter() for parameter in held] == [None] * len(held)


def test_biases_are_priced(registry: Registry) -> None:
    plain, biased = (subject_of(pico, registry).table for pico in (PICOS[1], PICOS[3]))
    assert not PICOS[1].attention_bias
    assert PICOS[3].attention_bias
    # gate, up; two query heads, key head, value head; and what only leaves with the layer: those of two outputs
    rows = {"mlp": 2, "attention": 2 * 8 + 2 * 8, "layer": 2 * 32}
    for without, with_bias in zip(plain, biased, strict=True):
        assert with_bias.unit_params == without.unit_params + rows[with_bias.kind]


# Priors in the model


def statistics_of(
    subject: Subject, chunks: Chunks, reader: Prior | Compensator, keep_U: NDArray[np.bool_]
) -> dict[str, Statistic]:
    """By site name, what a prior or compensator reads of the text."""
    lockstep = Lockstep(subject, chunks)
    stream, statistics = lockstep.stream(windows()), dict[str, Statistic]()

    def visit(number: int) -> None:
        totals = LayerTotals(subject, number, reader, keep_U)
        with totals.reading():
            lockstep.advance(number, stream, LayerLanes.of(subject, number, keep_U[None], None), totals.add)
        statistics.update(totals.result())

    lockstep.sweep(visit)
    return statistics


def scores_of(subject: Subject, chunks: Chunks, prior: Prior, keep_U: NDArray[np.bool_]) -> NDArray[np.float64]:
    statistics, score_U = statistics_of(subject, chunks, prior, keep_U), np.zeros(len(keep_U))
    for site in subject.sites_present():
        ids = np.flatnonzero(keep_U[site.units]) + site.first
        score_U[ids] = site_scores(subject, prior, statistics[site.name], site, keep_U, seed=0)
    return score_U


@pytest.mark.parametrize("name", ["wanda", "activation", "fluctuation", "block-influence", "obs", "reap", "frequency"])
@pytest.mark.parametrize("pico", [*PICOS[:3], *MIXTURES], ids=str)
def test_the_batch_size_and_slicing_do_not_change_a_prior(registry: Registry, pico: Pico, name: str) -> None:
    prior: Any = registry.create("prior", PluginChoice(name=name))
    masked, sliced = (subject_of(pico, registry, units=()) for _ in range(2))
    keep_U = keep_vectors(masked.table)[0]
    sliced.slice(keep_U)
    scores = [
        scores_of(subject, quiet(batch_size), prior, keep_U)
        for subject, batch_size in ((masked, 5), (masked, 2), (sliced, 5))
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-4)
    assert (scores[0] > 0).tolist() == keep_U.tolist()


# Metrics in the model


def test_the_dense_model_has_no_divergence_from_itself(model: Any, kl: TokenMetric) -> None:
    predictions = quiet_passes(model).predictions
    dense = predictions.dense_side(windows())
    assert predictions.token_mean(kl.per_token, windows(), dense) == pytest.approx(0, abs=1e-6)


def test_kl_in_chunks_equals_the_plain_formula(model: Any, kl: TokenMetric, registry: Registry) -> None:
    subject = Subject(model, registry.family("llama"))
    keep_U = keep_vectors(subject.table)[0]
    ids = torch.from_numpy(windows())

    def log_probabilities() -> Tensor:
        with torch.inference_mode():
            result: Tensor = model(input_ids=ids).logits[:, :-1].double().log_softmax(dim=-1)
        return result

    dense, predictions = log_probabilities(), quiet_passes(model, chunk_logits=3 * VOCABULARY).predictions
    side = predictions.dense_side(windows())
    with subject.masked(keep_U):
        pruned, measured = log_probabilities(), predictions.token_mean(kl.per_token, windows(), side)
    assert measured == pytest.approx(float((dense.exp() * (dense - pruned)).sum(dim=-1).mean()), rel=1e-4)
    assert measured > 0.01


def test_perplexity_is_that_of_transformers(model: Any) -> None:
    ids = torch.from_numpy(windows())
    with torch.inference_mode():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert quiet_passes(model).predictions.perplexity(windows()) == pytest.approx(np.exp(loss), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_batch_size_does_not_change_perplexity(model: Any, batch_size: int) -> None:
    whole = quiet_passes(model, 5).predictions.perplexity(windows())
    assert quiet_passes(model, batch_size).predictions.perplexity(windows()) == pytest.approx(whole, rel=1e-5)


def test_a_whole_vocabulary_of_logits_is_made_for_few_tokens_at_once(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: seen.append(output.shape))
    quiet_passes(model, chunk_logits=4 * VOCABULARY).predictions.perplexity(windows())
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
    expected = quiet_passes(model).predictions.perplexity(windows())
    warnings: list[str] = []
    tokens: list[int] = []
    predictions = Passes(model, Chunks(windows().size, warnings.append, tokens.append)).predictions
    with room_for(model, 2):
        dense = predictions.dense_side(windows())
        assert predictions.perplexity(windows()) == pytest.approx(expected, rel=1e-5)
        assert predictions.token_mean(kl.per_token, windows(), dense) == pytest.approx(0, abs=1e-6)
    assert warnings == ["The device ran out of memory: a pass now takes 24 tokens instead of 60."]
    assert sum(tokens) == 3 * windows().size


@pytest.mark.parametrize("name", ["wanda", "obs"])
def test_running_out_of_memory_does_not_count_a_batch_twice_in_a_prior(registry: Registry, name: str) -> None:
    subject = subject_of(PICOS[1], registry)
    prior: Any = registry.create("prior", PluginChoice(name=name))
    keep_U = subject.table.keep_all()
    expected = scores_of(subject, quiet(), prior, keep_U)
    warnings: list[str] = []
    with room_in_the_last_layer(subject.model, 2):
        score = scores_of(subject, Chunks(windows().size, warnings.append), prior, keep_U)
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
    passes = Passes(model, Chunks(4 * windows().shape[1], warnings.append))
    with room_for(model, 0), pytest.raises(BonsaiError, match=r"single window.*--sequence-length.*2\.00 GiB"):
        passes.predictions.perplexity(windows())
    assert len(warnings) == 2


def test_other_errors_are_not_taken_for_a_lack_of_memory(model: Any) -> None:
    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.base_model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        quiet_passes(model).predictions.perplexity(windows())


# Second moments and repair


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_moments_layer_by_layer_are_those_of_whole_passes(registry: Registry, pico: Pico) -> None:
    subject = subject_of(pico, registry)
    keep_U = keep_vectors(subject.table)[0]
    found = statistics_of(subject, quiet(), _compensator(registry, "least_squares"), keep_U)
    with torch.inference_mode(), subject.masked(keep_U):
        expected = {site.name: _moments_in_one_pass(subject, site, keep_U) for site in with_output(subject)}
    assert found.keys() == {site.name for site in subject.sites_present()} >= expected.keys()
    for name, moments in expected.items():
        assert found[name].num_tokens == windows().size
        torch.testing.assert_close(
            found[name].total.double(), moments, rtol=1e-4, atol=1e-5 * float(moments.abs().max())
        )


def _moments_in_one_pass(subject: Subject, site: Site, keep_U: NDArray[np.bool_]) -> Tensor:
    """Of the units kept: sum over tokens of x x' / |h|^2 in float64, from one ordinary forward pass."""
    seen: dict[str, Tensor] = {}
    layer = decoder_layers(subject.model, subject.family)[site.layer]
    handles = [
        subject.output(site).register_forward_pre_hook(lambda module, args: seen.update(x=args[0])),
        layer.register_forward_hook(
            lambda module, args, output: seen.update(h=output[0] if isinstance(output, tuple) else output)
        ),
    ]
    subject.model(torch.from_numpy(windows()))
    for handle in handles:
        handle.remove()
    kept = torch.from_numpy(np.repeat(keep_U[site.units], site.unit_channels))
    rows = seen["x"][..., kept].double().flatten(end_dim=-2) / seen["h"].double().norm(dim=-1).flatten()[:, None]
    moments: Tensor = rows.T @ rows
    return moments


BY_GROUP, BY_HEAD = ("layer",), ("query", "layer")


@pytest.mark.parametrize(
    ("pico", "units"),
    [*((pico, BY_GROUP) for pico in PICOS), *((pico, BY_HEAD) for pico in GROUPED[::2])],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
@pytest.mark.parametrize("compensator", ["least_squares", "bias"])
def test_a_repaired_sub_model_is_the_repaired_and_sliced_model(
    registry: Registry, pico: Pico, units: Any, compensator: str
) -> None:
    subject, chosen = subject_of(pico, registry, units=units), _compensator(registry, compensator)
    dense = logits(subject.model)
    for keep_U in keep_vectors(subject.table):
        subject = subject_of(pico, registry, units=units)
        repairs = _repairs(subject, chosen, keep_U)
        with subject.masked(keep_U, lambda site, _, repairs=repairs: repairs.get(site.name)):  # type: ignore[misc]
            measured = logits(subject.model)
        assert torch.equal(logits(subject.model), dense), "a trace was left"
        for site in with_output(subject):
            if site.name in repairs:
                subject.repair(site, keep_U, repairs[site.name])
        subject.slice(keep_U)
        atol = 1e-4 * float(measured.abs().max())
        torch.testing.assert_close(logits(subject.model), measured, rtol=0, atol=atol)


def test_least_squares_is_the_dense_computation(registry: Registry) -> None:
    """Of the first MLP, against numpy's least squares on the very rows, all in float64."""
    subject, ids_NT = subject_of(PICOS[0], registry), windows()
    site = subject.table.sites[1]
    keep_U = subject.table.keep_all()
    keep_U[site.first : site.first + 3] = False
    compensator = registry.create("compensator", PluginChoice(name="least_squares", options={"damping": 1e-9}))
    weight = subject.output(site).weight.detach().double().numpy()
    rows = _rows(subject, site, ids_NT)
    expected = np.linalg.lstsq(rows[:, 3:], rows @ weight.T, rcond=None)[0].T
    moments = torch.from_numpy(rows.T @ rows).float()
    repair = site_repair(subject, compensator, Statistic(moments, len(rows)), site, subject.table.keep_all(), keep_U)  # type: ignore[arg-type]
    assert repair.weight is not None
    np.testing.assert_allclose(repair.weight.flatten(1).numpy(), expected, atol=1e-2 * np.abs(expected).max())


def _compensator(registry: Registry, name: str) -> Compensator:
    compensator = registry.create("compensator", PluginChoice(name=name))
    assert isinstance(compensator, Compensator)
    return compensator


def _repairs(subject: Subject, compensator: Compensator, keep_U: NDArray[np.bool_]) -> dict[str, Repair]:
    """What every site that loses units gets, from statistics of the dense model."""
    alive_U = subject.table.keep_all()
    statistics = statistics_of(subject, quiet(), compensator, alive_U)
    return {
        site.name: site_repair(subject, compensator, statistics[site.name], site, alive_U, keep_U)
        for site in with_output(subject)
        if not keep_U[site.units].all()
    }


def _rows(subject: Subject, site: Site, ids_NT: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the site's output projection reads, float64 [tokens, channels]."""
    seen: list[Tensor] = []
    handle = subject.output(site).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        subject.model(torch.from_numpy(ids_NT))
    handle.remove()
    return np.asarray(seen[0].double().flatten(end_dim=-2).numpy())
