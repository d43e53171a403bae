"""Laws of lockstep: many sub-models side by side, layer by layer, compute what each of them computes alone."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from conftest import HIDDEN, LAYERS, PICOS, VOCABULARY, Pico, StoppedError, Stopper, family_of
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bonsai_core import (
    BonsaiError,
    DenseTokens,
    Metric,
    Probe,
    Registry,
    Removal,
    Repair,
    RunConfig,
    Site,
    Statistic,
    hookimpl,
    resume,
    run,
    token_kl,
)
from bonsai_core.config import PluginChoice
from bonsai_core.contracts.metric import perplexity_of, token_nll
from bonsai_core.engine.finish import finish
from bonsai_core.engine.setup import open_job
from bonsai_core.events import Event, Journaled, RoundFinished, Stage, StageStarted, Warned
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.lockstep import Lockstep, Stream
from bonsai_core.model.forward.padding import padded_batches
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.subject import RepairOf, Subject
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.sources import Question
from bonsai_core.testing.family import keep_vectors

NUM_WINDOWS, LENGTH = 3, 12
UNITS: Any = ("layer",)
LINEARS = 7
"""Of a Llama layer."""
VARYING = ("seconds", "memory", "latency", "config")
OF_EACH_KIND = [PICOS[1], *(pico for pico in PICOS if str(pico) in ("gemma2-gqa-tied", "falcon-mha-bias-alibi"))]
OF_EACH_KIND += [pico for pico in PICOS if pico.family in ("opt", "qwen2_moe")]


def subject_of(registry: Registry, pico: Pico) -> Subject:
    return Subject(pico.build(), family_of(registry, pico), units=UNITS)


def windows(num_windows: int = NUM_WINDOWS) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(VOCABULARY, size=(num_windows, LENGTH))


def chunks(num_windows: int, tokens: list[int] | None = None) -> Chunks:
    """Of a number of windows, which must not shrink."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return Chunks(num_windows * LENGTH, refuse, None if tokens is None else tokens.append)


def lanes_of(subject: Subject) -> NDArray[np.bool_]:
    """All units, some of each site, without whole sub-layers, without the first layer, without the last one alone."""
    table = subject.table
    last_gone_U = table.keep_all()
    for site in table:
        last_gone_U[site.units] = site.layer != LAYERS - 1
    return np.stack([table.keep_all(), *keep_vectors(table), last_gone_U])


def put_through(
    lockstep: Lockstep, keep_LU: NDArray[np.bool_], ids_NT: NDArray[np.int64], repair_of: RepairOf | None = None
) -> Stream:
    stream = lockstep.stream(ids_NT, len(keep_LU))
    subject = lockstep.subject
    lockstep.sweep(lambda number: lockstep.advance(number, stream, LayerLanes.of(subject, number, keep_LU, repair_of)))
    return stream


def hidden_of_lanes(
    lockstep: Lockstep, keep_LU: NDArray[np.bool_], ids_NT: NDArray[np.int64], repair_of: RepairOf | None = None
) -> list[Tensor]:
    """Last hidden states [windows, sequence, hidden] of each lane."""
    stream = put_through(lockstep, keep_LU, ids_NT, repair_of)
    return [torch.cat([some for _, some in lockstep.last_hidden(stream, lane)]) for lane in range(len(keep_LU))]


def hidden_of_model(model: Any, ids_NT: NDArray[np.int64], num_windows: int = 64) -> Tensor:
    return torch.cat([some for _, some in Passes(model, chunks(num_windows)).last_hidden(ids_NT)])


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def traces(model: Any) -> list[str]:
    """Modules with hooks, or another forward pass than that of their class."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    ]


def some_repair(subject: Subject) -> Callable[[Site, NDArray[np.bool_]], Repair | None]:
    """Weights, a bias or both for every site that loses units, other ones for each way of losing them."""

    def repair_of(site: Site, keep_U: NDArray[np.bool_]) -> Repair | None:
        keep = keep_U[site.units]
        if not site.has_output or keep.all():
            return None
        generator = torch.Generator().manual_seed(site.first + int(np.flatnonzero(~keep).sum()))
        out, which = subject.output(site).out_features, site.layer % 3
        weight = 0.2 * torch.randn(out, int(keep.sum()), site.unit_channels, generator=generator)
        bias = torch.randn(out, generator=generator)
        return Repair(None if which == 1 or not keep.any() else weight, None if which == 2 else bias)

    return repair_of


# Lanes


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_every_lane_is_the_sub_model_under_its_keep_vector(registry: Registry, pico: Pico) -> None:
    subject, ids_NT = subject_of(registry, pico), windows()
    keep_LU = lanes_of(subject)
    before = hidden_of_model(subject.model, ids_NT)
    found = hidden_of_lanes(Lockstep(subject, chunks(7)), keep_LU, ids_NT)
    assert traces(subject.model) == []
    for hidden, keep_U in zip(found, keep_LU, strict=True):
        with subject.masked(keep_U):
            assert_same(hidden, hidden_of_model(subject.model, ids_NT))
    (alone,) = hidden_of_lanes(Lockstep(subject, chunks(64)), keep_LU[:1], ids_NT)
    assert torch.equal(alone, before)
    assert torch.equal(hidden_of_model(subject.model, ids_NT), before)


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_every_repaired_lane_is_the_repaired_sub_model(registry: Registry, pico: Pico) -> None:
    subject, ids_NT = subject_of(registry, pico), windows()
    keep_LU, repair_of = lanes_of(subject), some_repair(subject)
    before = hidden_of_model(subject.model, ids_NT)
    found = hidden_of_lanes(Lockstep(subject, chunks(7)), keep_LU, ids_NT, repair_of)
    for hidden, keep_U in zip(found, keep_LU, strict=True):
        with subject.masked(keep_U, repair_of):
            assert_same(hidden, hidden_of_model(subject.model, ids_NT))
    assert traces(subject.model) == []
    assert torch.equal(hidden_of_model(subject.model, ids_NT), before)


def test_a_model_that_computes_between_its_layers_is_refused(registry: Registry) -> None:
    subject = subject_of(registry, PICOS[1])
    between = subject.layers_present()[1].register_forward_pre_hook(lambda layer, args: (args[0] / 2, *args[1:]))
    lockstep = Lockstep(subject, chunks(7))
    for _ in range(2):
        with pytest.raises(BonsaiError, match="Between the decoder layers"):
            lockstep.stream(windows())
    between.remove()
    lockstep.stream(windows())


@pytest.mark.parametrize("pico", OF_EACH_KIND, ids=str)
def test_a_layer_that_fails_leaves_no_trace(registry: Registry, pico: Pico) -> None:
    subject, ids_NT = subject_of(registry, pico), windows()
    before = hidden_of_model(subject.model, ids_NT)
    lockstep, keep_LU = Lockstep(subject, chunks(7)), lanes_of(subject)
    hidden_of_lanes(lockstep, keep_LU, ids_NT)

    def fail(module: Any, args: Any, output: Any) -> None:
        raise RuntimeError("the layer is broken")

    handle = subject.layers_present()[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        hidden_of_lanes(lockstep, keep_LU, ids_NT, some_repair(subject))
    handle.remove()
    assert traces(subject.model) == []
    assert torch.equal(hidden_of_model(subject.model, ids_NT), before)


@pytest.mark.parametrize("pico", OF_EACH_KIND, ids=str)
def test_chunks_and_the_order_of_lanes_change_nothing_but_rounding(registry: Registry, pico: Pico) -> None:
    subject, ids_NT = subject_of(registry, pico), windows()
    keep_LU, repair_of = lanes_of(subject), some_repair(subject)
    whole = hidden_of_lanes(Lockstep(subject, chunks(64)), keep_LU, ids_NT, repair_of)
    order = np.random.default_rng(1).permutation(len(keep_LU))
    for num_windows in (1, 4):
        found = hidden_of_lanes(Lockstep(subject, chunks(num_windows)), keep_LU[order], ids_NT, repair_of)
        for lane, hidden in zip(order, found, strict=True):
            assert_same(hidden, whole[lane])


def some_questions() -> list[Question]:
    rng = np.random.default_rng(0)

    def sequences(*lengths: int) -> Question:
        ids = tuple(rng.integers(VOCABULARY, size=length) for length in lengths)
        return Question(ids, tuple(int(length) // 2 for length in lengths), np.array(lengths), 0)

    return [sequences(5, 9, 6), sequences(17, 4), sequences(6, 6, 6, 11)]


@pytest.mark.parametrize("pico", OF_EACH_KIND, ids=str)
def test_padded_questions_of_many_lanes_are_answered_as_by_each_sub_model(registry: Registry, pico: Pico) -> None:
    subject, questions, tokens = subject_of(registry, pico), some_questions(), list[int]()
    keep_LU, lockstep = lanes_of(subject), Lockstep(subject, chunks(4, tokens))
    padded = padded_batches(questions, 2 * LENGTH)
    assert any((batch.lengths_N < batch.ids_NT.shape[1]).any() for batch in padded)
    streams = [lockstep.stream(batch.ids_NT, len(keep_LU), batch.lengths_N) for batch in padded]

    def visit(number: int) -> None:
        for stream in streams:
            lockstep.advance(number, stream, LayerLanes.of(subject, number, keep_LU, None))

    lockstep.sweep(visit)
    assert sum(tokens) == len(keep_LU) * sum(len(ids) for question in questions for ids in question.sequences)
    for lane, keep_U in enumerate(keep_LU):
        found = lockstep.predictions(streams, lane).answers(questions, padded)
        with subject.masked(keep_U):
            expected = Passes(subject.model, chunks(1)).answers(questions)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.log_likelihood, theirs.log_likelihood, rtol=1e-5, atol=1e-4)


# Products


@contextmanager
def products() -> Iterator[Counter[tuple[int, ...]]]:
    """How often matrices of each shape are multiplied with."""
    found: Counter[tuple[int, ...]] = Counter()
    linear = functional.linear

    def counting(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found[tuple(weight.shape)] += 1
        return linear(inputs, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "linear", counting)
        yield found


def unit_level(subject: Subject, num_lanes: int) -> NDArray[np.bool_]:
    """Every lane loses other units in every site."""
    keep_LU = np.ones((num_lanes, len(subject.table)), dtype=bool)
    for lane in range(num_lanes):
        for site in subject.table:
            if not site.leaves_with_layer:
                keep_LU[lane, site.first + lane % site.num_units] = False
    return keep_LU


def test_at_the_unit_level_every_site_takes_one_product_per_chunk(registry: Registry) -> None:
    subject = subject_of(registry, PICOS[0])
    keep_LU, lockstep = unit_level(subject, 4), Lockstep(subject, chunks(6))
    put_through(lockstep, keep_LU, windows())  # what is asked of the model once is known afterwards
    with products() as found:
        put_through(lockstep, keep_LU, windows())
    num_chunks = 4 * NUM_WINDOWS // 6
    assert sum(found.values()) == num_chunks * LAYERS * LINEARS
    assert found[tuple(subject.output(subject.table.sites[1]).weight.shape)] == num_chunks * LAYERS


def test_lanes_with_the_same_pattern_share_a_repaired_product(registry: Registry) -> None:
    subject = subject_of(registry, PICOS[0])
    two_LU = unit_level(subject, 2)
    keep_LU = np.stack([two_LU[0], two_LU[1], two_LU[0], subject.table.keep_all(), two_LU[1], two_LU[0]])
    computed: list[str] = []

    def repair_of(site: Site, keep_U: NDArray[np.bool_]) -> Repair | None:
        keep = keep_U[site.units]
        if keep.all():
            return None
        computed.append(site.name)
        weight = subject.output(site).weight.detach()
        by_unit = weight.view(len(weight), site.num_units, site.unit_channels)
        return Repair(by_unit[:, torch.from_numpy(keep)])

    lockstep = Lockstep(subject, chunks(64))
    put_through(lockstep, keep_LU, windows())
    with products() as found:
        put_through(lockstep, keep_LU, windows(), repair_of)
    sites = subject.sites_present()
    assert Counter(computed) == Counter({site.name: 2 for site in sites})
    # Two repaired patterns and one that keeps all.
    assert sum(found.values()) == LAYERS * (LINEARS - 2) + 3 * len(sites)


# Whole runs


class OneByOneKL(Metric):
    """Divergence from the dense model, by a way of measuring of its own."""

    name: ClassVar[str] = "one_by_one_kl"
    needs_dense: ClassVar[bool] = True
    reads: ClassVar[Literal["text", "choices", "nothing"]] = "text"

    def measure(self, probe: Probe) -> float:
        assert probe.model.training is False  # the model itself is there

        def per_token(logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
            assert dense is not None
            return token_kl(logits, dense)

        return probe.token_mean(per_token)

    def utility(self, value: float) -> float:
        return -value


class OneByOne:
    """A plugin with a metric that asks for the model."""

    @hookimpl
    def bonsai_metrics(self) -> list[type[Metric]]:
        return [OneByOneKL]


def settings(small_run: RunConfig, out: Path, **changes: Any) -> RunConfig:
    values = small_run.model_dump(mode="json") | {"latency": False, "out": str(out)} | changes
    return RunConfig.from_mapping(values, "the test")


def batches_of(directory: Path) -> dict[str, list[float | None]]:
    """The values of sub-models by the keys of their batches."""
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        rows = database.execute("SELECT key, payload FROM events WHERE key LIKE '%/submodels-%' ORDER BY number")
        return {key: json.loads(payload)["values"] for key, payload in rows}


def values_of(directory: Path) -> list[float]:
    found = [value for batch in batches_of(directory).values() for value in batch]
    finite = [value for value in found if value is not None]
    assert len(finite) == len(found)
    return finite


def outcome(directory: Path) -> dict[str, Any]:
    """What equal runs have in common: arrays and weights as bytes, and the report."""
    files = [*directory.glob("round-*/*.npz"), *directory.glob("round-*/*/*"), *directory.glob("model/*.safetensors")]
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {str(file.relative_to(directory)): file.read_bytes() for file in files}
    return {**found, **{name: value for name, value in report.items() if name not in VARYING}}


@pytest.mark.parametrize("compensator", ["least_squares", "bias", "none"])
def test_a_metric_that_asks_for_the_model_gets_what_lockstep_measures(
    small_run: RunConfig, tmp_path: Path, compensator: str
) -> None:
    registry = Registry()
    registry.register(OneByOne(), "a notebook")
    for metric in ("kl", "one_by_one_kl"):
        config = settings(small_run, tmp_path / metric, metric=metric, compensator=compensator, sparsity=0.15)
        report = run(config, registry=registry).report
        assert report["rounds"][0]["repaired_submodels"] == (compensator != "none")
    assert list(batches_of(tmp_path / "kl")) == ["round-1/submodels-0"]
    assert list(batches_of(tmp_path / "one_by_one_kl")) == [f"round-1/submodels-{n}" for n in range(4)]
    ours, theirs = (values_of(tmp_path / metric) for metric in ("kl", "one_by_one_kl"))
    assert len(set(ours)) == 4
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_a_python_function_gets_what_lockstep_measures(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    config = settings(small_run, tmp_path / "lockstep", metric="perplexity", sparsity=0.15)
    windows_NT = open_job(config, registry, print).calibration.data[0].windows_NT
    run(config, registry=registry)

    def perplexity(model: Any, tokenizer: Any) -> float:
        with torch.no_grad():
            logits = model(torch.from_numpy(windows_NT)).logits[:, :-1].flatten(0, 1)
        return -perplexity_of(float(token_nll(logits, torch.from_numpy(windows_NT)[:, 1:].flatten()).mean()))

    run(settings(small_run, tmp_path / "function", sparsity=0.15), registry=registry, metric=perplexity)
    found = [-value for value in values_of(tmp_path / "function")]
    assert found == pytest.approx(values_of(tmp_path / "lockstep"), rel=1e-5)


@pytest.mark.parametrize("prior", ["obs", "wanda"])
def test_moments_computed_again_give_what_those_kept_give(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior: str
) -> None:
    changes = {"prior": prior, "compensator": "least_squares", "search": 1, "search_samples": 4}
    for name in ("kept", "again"):
        config = settings(small_run, tmp_path / name, **changes)
        assert open_job(config, registry, print).keeps_moments == (name == "kept")
        run(config, registry=registry)
        monkeypatch.setattr("bonsai_core.engine.job.MOMENTS_SHARE", 0)
    assert outcome(tmp_path / "again") == outcome(tmp_path / "kept")


def test_the_size_of_batches_changes_no_number(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    for at_once in (1, 3):  # sub-models in a chunk
        for name, batch_tokens in (("one", None), ("small", 1)):
            batches = {"batch_size": at_once * small_run.samples, "batch_tokens": batch_tokens, "submodels": 6}
            run(settings(small_run, tmp_path / f"{name}-{at_once}", **batches, sparsity=0.15), registry=registry)
        assert list(batches_of(tmp_path / f"one-{at_once}")) == ["round-1/submodels-0"]
        small = batches_of(tmp_path / f"small-{at_once}")
        assert list(small) == [f"round-1/submodels-{first}" for first in range(0, 6, at_once)]
        assert {len(values) for values in small.values()} == {at_once}
        assert outcome(tmp_path / f"small-{at_once}") == outcome(tmp_path / f"one-{at_once}")


def test_sizes_are_measured_once_and_a_resumed_run_keeps_them(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bonsai_core.engine.sizes.WORTH_MEASURING", 0)
    for smallest in (small_run.sequence_length, 10**6):  # four sizes; none, because the text is shorter than that
        monkeypatch.setattr("bonsai_core.engine.sizes.CPU_TOKENS", smallest)
        first, again = tmp_path / f"first-{smallest}", tmp_path / f"again-{smallest}"
        run(settings(small_run, first, prior_samples=8, sparsity=0.15), registry=registry)
        stopper = Registry()
        stopper.register(Stopper(lambda event: isinstance(event, Journaled) and "submodels-0" in event.key), "a test")
        with pytest.raises(StoppedError):
            run(settings(small_run, again, prior_samples=8, sparsity=0.15), registry=stopper)
        found = tuned(again)
        assert found["tokens"] >= 1 <= found["batch_tokens"]
        resume(again, registry=registry)
        assert tuned(again) == found
        if found["tokens"] == tuned(first)["tokens"]:  # their numbers are rounded alike then
            assert outcome(again) == outcome(first)


def tuned(directory: Path) -> dict[str, int]:
    with closing(sqlite3.connect(directory / "journal.sqlite")) as database:
        return dict(json.loads(database.execute("SELECT payload FROM events WHERE key = 'tune'").fetchone()[0]))


def test_a_long_text_goes_through_in_batches_and_changes_no_number(registry: Registry) -> None:
    subject, ids_NT, tokens = subject_of(registry, PICOS[1]), windows(7), list[int]()
    keep_U = keep_vectors(subject.table)[0]
    whole, parts = (
        Lockstep(subject, chunks(1, tokens), batch_tokens).predictions_of(keep_U)
        for batch_tokens in (None, 2 * LENGTH + 1)
    )
    assert parts.perplexity(ids_NT) == whole.perplexity(ids_NT)
    for one, other in zip(parts.dense_side(ids_NT), whole.dense_side(ids_NT), strict=True):
        assert torch.equal(one, other)
    assert sum(tokens) == 4 * ids_NT.size


# Memory and work


def run_with(config: RunConfig, prepare: Callable[[Subject], object], observe: Callable[[Event], None] = print) -> None:
    """A run whose model something was done to."""
    assert config.out is not None
    job = open_job(config, Registry(), observe)
    prepare(job.subject)
    directory = RunDirectory(config.out)
    with directory.begin(config, observe) as journal:
        journal.append("run", {**job.identity(), "versions": {}})
        finish(job, Ledger(directory, journal, observe))


def test_running_out_of_memory_halves_the_chunk_and_not_the_batch(small_run: RunConfig, tmp_path: Path) -> None:
    batches = {"batch_size": 4, "batch_tokens": 7 * small_run.sequence_length}
    changes = {"submodels": 12, "samples": 1, "sparsity": 0.15, **batches}

    def check(module: Any, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    events: list[Event] = []
    run_with(settings(small_run, tmp_path / "roomy", **changes), lambda subject: None)
    run_with(
        settings(small_run, tmp_path / "narrow", **changes),
        lambda subject: subject.layers_present()[2].get_submodule("mlp").register_forward_pre_hook(check),
        events.append,
    )
    texts = [event.text for event in events if isinstance(event, Warned)]
    assert [text for text in texts if "memory" in text] == [
        "The device ran out of memory: a pass now takes 64 tokens instead of 128."
    ]
    roomy, narrow = (batches_of(tmp_path / name) for name in ("roomy", "narrow"))
    assert {key: len(values) for key, values in narrow.items()} == {key: len(values) for key, values in roomy.items()}
    assert len(roomy) == 3
    assert values_of(tmp_path / "narrow") == pytest.approx(values_of(tmp_path / "roomy"), rel=1e-4)


class Sweeps:
    """Which layers ran in each round, in order; those that ran consecutively are one."""

    def __init__(self) -> None:
        self.round = 0
        self.rounds: dict[int, list[int]] = {1: [], 2: []}

    def watch(self, subject: Subject) -> None:
        for number, layer in subject.layers_present().items():
            layer.get_submodule("mlp").register_forward_pre_hook(lambda mlp, args, n=number: self._ran(n, args[0]))

    def _ran(self, number: int, hidden: Tensor) -> None:
        if self.round and hidden.shape[1] > 2:  # fewer tokens tell what layers return
            self.rounds[self.round].append(number)

    def observe(self, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == Stage.PRIOR:
            self.round = event.round
        elif isinstance(event, RoundFinished):
            self.round = 0


@pytest.mark.parametrize(("keeps_moments", "expected"), [(True, [3, 2]), (False, [3, 3])])
def test_a_round_puts_text_through_every_layer_in_three_sweeps_or_fewer(
    small_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_moments: bool, expected: list[int]
) -> None:
    """Those after the first find the second moments of their own model in memory, where they fit."""
    if not keeps_moments:
        monkeypatch.setattr("bonsai_core.engine.job.MOMENTS_SHARE", 0)
    sweeps = Sweeps()
    config = settings(small_run, tmp_path / "run", submodels=12, prior_samples=40)
    run_with(config, sweeps.watch, sweeps.observe)
    for ran, num_sweeps in zip(sweeps.rounds.values(), expected, strict=True):
        assert len(ran) > 2 * num_sweeps * LAYERS  # chunks
        assert [number for number, _ in groupby(ran)] == num_sweeps * list(range(LAYERS))


def test_nothing_that_grows_with_the_square_of_the_width_is_written(
    small_run: RunConfig, registry: Registry, tmp_path: Path, pico_directory: Path
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width = 1024
    wide = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(pico_directory).save_pretrained(tmp_path / "wide")
    most, out = 0, tmp_path / "run"

    def observe(event: Event) -> None:
        nonlocal most
        files = [file for file in out.rglob("*") if file.is_file() and "model" not in file.relative_to(out).parts[0]]
        most = max(most, sum(file.stat().st_size for file in files))

    changes = {"model": str(tmp_path / "wide"), "device": "cpu", "sparsity": 0.15}
    for keeps in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not keeps:
                patch.setattr("bonsai_core.engine.job.MOMENTS_SHARE", 0)
            out, most = tmp_path / f"run-{keeps}", 0
            run_with(settings(small_run, out, **changes), lambda subject: None, observe)
        repairs = 4 * LAYERS * HIDDEN * (HIDDEN + width)  # if nothing were removed
        assert most < repairs + 1e6 < 4 * width**2


def test_the_rounding_of_tensor_cores_adds_far_less_to_the_error_of_a_repair_than_damping(registry: Registry) -> None:
    """Whatever tokens have in common, and however different channels are in size."""

    def rounded(rows: Tensor) -> Tensor:
        """To the 10 bits of TF32."""
        bits = rows.view(torch.int32)
        kept: Tensor = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
        return kept

    generator = torch.Generator().manual_seed(0)
    channels, num_tokens = 128, 2048
    weight = torch.randn(32, channels, 1, generator=generator)
    keep = torch.arange(channels) % 4 > 0
    for common in (0.0, 1.0, 10.0):
        mixed = torch.randn(channels, channels, generator=generator) * torch.logspace(0, -2, channels)[:, None]
        rows = torch.randn(num_tokens, channels, generator=generator) @ mixed
        rows += common * rows.std() * torch.randn(channels, generator=generator)
        assert 2**-12 < float((rounded(rows) / rows - 1).abs().max()) <= 2**-11
        exact, off = ((some.double().T @ some.double()).float() for some in (rows, rounded(rows)))

        def error(moments: Tensor, **options: float) -> float:
            compensator: Any = registry.create("compensator", PluginChoice(name="least_squares", options=options))
            repair = compensator.repair(Removal(weight, keep), Statistic(moments, num_tokens))
            lost = weight[..., 0].double()
            lost[:, keep] -= repair.weight[..., 0]
            return float((rows.double() @ lost.T).square().sum())  # noqa: B023  (called at once)

        undamped, damped, both = error(exact, damping=1e-9), error(exact), error(off)
        assert both - damped < 0.1 * (damped - undamped)
