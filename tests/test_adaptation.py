"""Adaptation: the loss is what it says, a resume reaches the same weights, and the result loads like what it was."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import PICOS, VOCABULARY, Listener, Photographer, Pico, StoppedError, Stopper, family_of
from numpy.typing import NDArray
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import (
    AdaptConfig,
    AdaptResult,
    BonsaiError,
    Registry,
    RunConfig,
    RunResult,
    adapt,
    dry_run,
    load_model,
    resume,
    run,
)
from bonsai_core.adaptation.job import open_adaptation
from bonsai_core.adaptation.loss import TopTokens, WholeTeacher, hidden_loss, token_losses, top_kl, whole_kl
from bonsai_core.adaptation.methods import causal_lm, merge, prepare
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.adaptation.training import learning_rate
from bonsai_core.config import PluginChoice
from bonsai_core.events import AdaptationStarted, CurvePoint, Event, Journaled, StepDone, TokensDone, Warned
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.lm_head import Head
from bonsai_core.model.forward.passes import Passes
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger

TOKENS, HIDDEN, TOP, WINDOW = 11, 6, 5, 16


class Adapted(NamedTuple):
    """An adaptation.

    Attributes:
        result: what it ended with.
        events: what was told of it.
        copies: a folder with its directory after some steps, by their numbers, and at its end, `whole`.
    """

    result: AdaptResult
    events: list[Event]
    copies: Path


def after_step(number: int) -> Any:
    return lambda event: isinstance(event, StepDone) and event.step == number


@pytest.fixture(scope="module")
def pruned(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a pico model with ragged widths."""
    out = tmp_path_factory.mktemp("runs") / "pruned"
    return run(small_run.model_copy(update={"out": out, "latency": False}), registry=registry).directory


def configured(pruned: Path, out: Path, **settings: Any) -> AdaptConfig:
    """Six steps, every one saved, in a tenth of a second each."""
    base: dict[str, Any] = {
        "steps": 6,
        "batch_size": 4,
        "sequence_length": 32,
        "eval_samples": 2,
        "eval_sequence_length": 64,
    }
    base |= {"learning_rate": 3e-3, "lora_rank": 4, "evaluations": 2, "save_minutes": 0, "device": "cpu"}
    return AdaptConfig.model_validate({**base, "model": str(pruned), "out": out, **settings})


def weights(result: RunResult | AdaptResult) -> bytes:
    return (result.model_path / "model.safetensors").read_bytes()


def files_of(result: RunResult | AdaptResult) -> dict[str, bytes]:
    """All of the checkpoint but the note where it comes from."""
    return {path.name: path.read_bytes() for path in result.model_path.iterdir() if path.name != "bonsai.json"}


def head_and_states(bias: bool) -> tuple[Head, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(HIDDEN, VOCABULARY, bias)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model: Any = SimpleNamespace(config=SimpleNamespace(), get_output_embeddings=lambda: linear)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator, requires_grad=True)
    return Head(model), hidden, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


class TestLoss:
    @pytest.mark.parametrize("teacher_kind", ["stored", "whole"])
    @pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY, 10**9])
    def test_it_equals_a_plain_float64_computation(self, teacher_kind: str, chunk: int) -> None:
        head, hidden, targets = head_and_states(bias=True)
        theirs = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
        teacher = WholeTeacher(head, theirs)
        stored = TopTokens.of(head.logits(theirs).detach(), TOP)
        used = stored if teacher_kind == "stored" else teacher
        found = token_losses(head, hidden, targets, used, kl_weight=0.3, chunk_logits=chunk)
        (2 * found.loss).backward()  # type: ignore[no-untyped-call]
        weight, bias = (p.detach().numpy().astype(np.float64) for p in head.projection.parameters())
        q, p = (np.exp(x.detach().numpy().astype(np.float64) @ weight.T + bias) for x in (hidden, theirs))
        q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
        expected_lm = -np.log(q[np.arange(TOKENS), targets.numpy()]).mean()
        one_hot = np.eye(VOCABULARY)[targets.numpy()]
        if teacher_kind == "stored":
            expected_kl, kl_slope = 0.0, np.zeros_like(q)
            for t in range(TOKENS):
                top = np.argsort(-p[t])[:TOP]
                rest = np.setdiff1d(np.arange(VOCABULARY), top)
                p_bucket, q_bucket = (np.append(row[t][top], row[t][rest].sum()) for row in (p, q))
                expected_kl += (p_bucket * np.log(p_bucket / q_bucket)).sum() / TOKENS
                kl_slope[t] = q[t] - np.where(np.isin(np.arange(VOCABULARY), top), p[t], 0.0)
                kl_slope[t][rest] -= p_bucket[-1] * q[t][rest] / q_bucket[-1]
        else:
            expected_kl = (p * np.log(p / q)).sum(axis=1).mean()
            kl_slope = q - p
        logit_slope = 2 * (q - one_hot + 0.3 * kl_slope) / TOKENS
        assert found.lm.item() == pytest.approx(expected_lm, rel=1e-5)
        assert found.kl.item() == pytest.approx(expected_kl, rel=1e-5)
        assert found.loss.item() == pytest.approx(expected_lm + 0.3 * expected_kl, rel=1e-5)
        assert hidden.grad is not None
        np.testing.assert_allclose(hidden.grad.numpy(), logit_slope @ weight, atol=1e-5)
        slopes = (parameter.grad for parameter in head.projection.parameters())
        of_weight, of_bias = (slope.numpy() for slope in slopes if slope is not None)
        np.testing.assert_allclose(of_weight, logit_slope.T @ hidden.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(of_bias, logit_slope.sum(axis=0), atol=1e-5)

    def test_a_bucket_of_one_token_loses_nothing(self) -> None:
        ours, theirs = torch.randn(2, TOKENS, 7, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(top_kl(ours, TopTokens.of(theirs, 6)), whole_kl(ours, theirs))

    def test_more_stored_tokens_never_tell_less(self) -> None:
        ours, theirs = torch.randn(2, TOKENS, 50, generator=torch.Generator().manual_seed(0))
        kls = [top_kl(ours, TopTokens.of(theirs, k)) for k in (1, 5, 20, 49)]
        assert all((less <= more + 1e-6).all() for less, more in itertools.pairwise(kls))

    def test_hidden_states_are_compared_layer_by_layer(self) -> None:
        ours = [torch.zeros(2, 3), torch.ones(2, 3)]
        theirs = [torch.full((2, 3), 2.0), torch.full((2, 3), 4.0)]
        assert float(hidden_loss(ours, theirs)) == pytest.approx(2**2 + 3**2)

    def test_without_a_teacher_there_is_no_divergence(self) -> None:
        head, hidden, targets = head_and_states(bias=False)
        assert token_losses(head, hidden, targets, None).kl.item() == 0


class TestTeacher:
    def passes(self, pico_directory: Path, on_tokens: Callable[[int], None] | None = None) -> Passes:
        return Passes(load_model(str(pico_directory), device="cpu"), Chunks(2 * WINDOW, print, on_tokens))

    def stored(self, folder: Path) -> StoredTeacher:
        return StoredTeacher(folder / "teacher", (5, 15, TOP), VOCABULARY)

    def compute(
        self,
        stored: StoredTeacher,
        passes: Passes,
        windows: NDArray[np.int64],
        folder: Path,
        observe: Callable[[Event], None],
    ) -> None:
        directory = RunDirectory(folder)
        with directory.reopen(observe) as journal:
            ledger = Ledger(directory, journal, observe)
            ledger.skip((len(windows) - sum(map(len, stored.missing))) * WINDOW)
            stored.compute(stored.missing, passes, windows, ledger.record)

    def test_what_is_stored_is_what_it_says_to_half_precision(self, pico_directory: Path, tmp_path: Path) -> None:
        windows = np.random.default_rng(0).integers(VOCABULARY, size=(5, WINDOW))
        passes, stored = self.passes(pico_directory), self.stored(tmp_path)
        self.compute(stored, passes, windows, tmp_path, lambda event: None)
        chosen = torch.tensor([3, 1])
        found = stored.tokens(chosen, torch.device("cpu"))
        with torch.no_grad():
            logits = (
                passes.model(input_ids=torch.from_numpy(windows[[3, 1]]), use_cache=False).logits[:, :-1].flatten(0, 1)
            )
        expected = TopTokens.of(logits, TOP)
        assert torch.equal(found.ids, expected.ids)
        torch.testing.assert_close(found.log_p, expected.log_p, rtol=1e-3, atol=1e-3)

    def test_it_goes_on_where_it_was_stopped(self, pico_directory: Path, tmp_path: Path) -> None:
        windows = np.random.default_rng(0).integers(VOCABULARY, size=(5, WINDOW))
        files = []
        for name in ("whole", "stopped"):
            folder = tmp_path / name
            folder.mkdir()
            if name == "stopped":
                stopper = Stopper(lambda event: isinstance(event, Journaled) and event.key == "teacher/0")
                passes, stored = self.passes(pico_directory), self.stored(folder)
                with pytest.raises(StoppedError):
                    self.compute(stored, passes, windows, folder, stopper.bonsai_observe)
            listener, tokens = Listener(), list[int]()
            passes = self.passes(pico_directory, tokens.append)
            self.compute(self.stored(folder), passes, windows, folder, listener.bonsai_observe)
            replayed = [event.tokens for event in listener.events if isinstance(event, TokensDone) and event.replayed]
            assert (sum(replayed), sum(tokens)) == ((2 * WINDOW, 3 * WINDOW) if name == "stopped" else (0, 5 * WINDOW))
            files.append(b"".join(path.read_bytes() for path in sorted((folder / "teacher").glob("*.bin"))))
        assert files[0] == files[1]

    def test_everything_cannot_be_stored_as_the_likeliest(self, pruned: Path, tmp_path: Path) -> None:
        with pytest.raises(BonsaiError, match=f"--teacher-top-k {VOCABULARY} is not below"):
            adapt(configured(pruned, tmp_path / "out", teacher_top_k=VOCABULARY))
        assert not (tmp_path / "out").exists()

    def test_one_with_other_tokens_is_refused(
        self, pruned: Path, registry: Registry, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        other = Pico("llama", 2).build()
        other.resize_token_embeddings(VOCABULARY + 8)
        other.save_pretrained(tmp_path / "other")
        tokenizer.save_pretrained(tmp_path / "other")
        config = configured(pruned, tmp_path / "out", teacher=str(tmp_path / "other"))
        with pytest.raises(BonsaiError, match="other tokens than the model"):
            adapt(config, registry=registry)


class TestMethods:
    @pytest.mark.parametrize(
        ("pico", "method"),
        [(pico, "lora") for pico in PICOS] + [(pico, "scales") for pico in PICOS if pico.family != "olmoe"],
        ids=str,
    )
    def test_merging_changes_nothing(self, registry: Registry, pico: Pico, method: Any) -> None:
        model = pico.build()
        family = family_of(registry, pico).of(model.config)
        names = set(model.state_dict())
        student = prepare(model, family, AdaptConfig(model="x", method=method, lora_rank=2))
        with torch.no_grad():
            for name, parameter in student.named_parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                    parameter.add_(0.1 * noise)
            ids = torch.arange(20)[None]
            student.eval()
            trained = causal_lm(student)(ids).logits
            merged = merge(student)
            torch.testing.assert_close(merged(ids).logits, trained, rtol=1e-4, atol=1e-3)
        assert not torch.allclose(trained, pico.build()(ids).logits, atol=1e-2)
        assert set(merged.state_dict()) == names

    def test_scales_are_one_number_per_channel(self, pruned: Path, registry: Registry) -> None:
        model = load_model(str(pruned / "model"), device="cpu")
        outputs = [m for name, m in model.named_modules() if name.endswith(("o_proj", "down_proj"))]
        student = prepare(model, registry.family("llama"), AdaptConfig(model="x", method="scales"))
        trained = [p.numel() for p in student.parameters() if p.requires_grad]
        assert sorted(trained) == sorted(linear.in_features for linear in outputs)

    def test_what_cannot_be_trained_is_refused_before_any_work(
        self, registry: Registry, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        for name, settings, message in (
            ("bloom", {"method": "scales"}, "declared model family"),
            ("mixtral", {"method": "lora", "lora_dropout": 0.1}, "--lora-dropout 0"),
        ):
            folder = tmp_path / name
            if name == "bloom":
                sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 4}
                AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**sizes)).save_pretrained(folder)
            else:
                next(pico for pico in PICOS if pico.family == name).build().save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            with pytest.raises(BonsaiError, match=message):
                open_adaptation(configured(folder, tmp_path / "out", **settings), registry, print)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "full"},
        {"method": "lora", "lora_dropout": 0.2, "micro_batch_size": 2},
        {"method": "scales", "learning_rate": 1e-2},
        {"teacher_top_k": 0, "hidden_weight": 0.01, "gradient_checkpointing": True},
        {"teacher": "none", "steps": None, "tokens": 700},
        {"method": "full", "precision": "bfloat16"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_resume_in_the_middle_reaches_the_same_weights(
    pruned: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    watched = Registry()
    fourth, stopped = after_step(4), tmp_path / "stopped"
    photographer = Photographer(tmp_path / "whole", lambda event: stopped if fourth(event) else None)
    watched.register(photographer, "the photographer")
    whole = adapt(configured(pruned, tmp_path / "whole", **settings), registry=watched)
    listening, listener = Registry(), Listener()
    listening.register(listener, "the listener")
    resumed = resume(tmp_path / "stopped", registry=listening)
    assert weights(resumed) == weights(whole)
    steps = [event.step for event in listener.events if isinstance(event, StepDone)]
    assert steps == [4, 5, 6]  # the fourth step was made, and its state not saved
    for name in ("curve", "losses", "perplexity"):
        assert resumed.report[name] == whole.report[name]


@pytest.fixture(scope="module")
def adapted(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder, registry, listener = tmp_path_factory.mktemp("adapted"), Registry(), Listener()

    def where(event: Event) -> Path | None:
        return folder / f"{event.step}" if isinstance(event, StepDone) and event.step in (1, 2, 4, 6) else None

    registry.register(Photographer(folder / "whole", where), "the photographer")
    registry.register(listener, "the listener")
    return Adapted(adapt(configured(pruned, folder / "whole"), registry=registry), listener.events, folder)


KEYS = ["adapt", "teacher-weights", "teacher/0", "model-weights", "evaluate/adapted", "save"]


@pytest.fixture(scope="module")
def seldom_saved(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdaptResult, Path]:
    """An adaptation whose state is not saved between its steps; and its directory at some events, by their keys."""
    folder, registry = tmp_path_factory.mktemp("adapted"), Registry()

    def where(event: Event) -> Path | None:
        found = isinstance(event, Journaled) and event.key in KEYS and folder / event.key.replace("/", "-")
        return found or None

    registry.register(Photographer(folder / "whole", where), "the photographer")
    return adapt(configured(pruned, folder / "whole", save_minutes=9), registry=registry), folder


@pytest.mark.parametrize("key", KEYS)
def test_stopped_anywhere_it_ends_with_the_same_bytes(
    seldom_saved: tuple[AdaptResult, Path], registry: Registry, tmp_path: Path, key: str
) -> None:
    whole, copies = seldom_saved
    shutil.copytree(copies / key.replace("/", "-"), tmp_path / "stopped")
    resumed = resume(tmp_path / "stopped", registry=registry)
    assert files_of(resumed) == files_of(whole)
    assert resumed.report["losses"] == whole.report["losses"]
    assert resume(tmp_path / "stopped", registry=registry).report == resumed.report
    assert sorted(path.name for path in resumed.directory.iterdir() if not path.name.startswith(".")) == [
        "adapt.yaml", "curve.png", "curve.svg", "journal.sqlite", "model", "report.html", "report.json",
    ]  # fmt: skip


def test_what_is_lost_is_made_again(adapted: Adapted, registry: Registry, tmp_path: Path) -> None:
    """The checkpoint of a finished adaptation, and what the teacher said of an interrupted one."""
    whole, _, copies = adapted
    expected = files_of(whole)
    shutil.copytree(whole.directory, tmp_path / "whole")
    (tmp_path / "whole/model/model.safetensors").unlink()
    assert files_of(resume(tmp_path / "whole", registry=registry)) == expected
    shutil.copytree(copies / "2", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/teacher")
    assert files_of(resume(tmp_path / "stopped", registry=registry)) == expected


def test_an_adaptation_is_resumed_without_a_metric(adapted: Adapted, registry: Registry) -> None:
    directory = adapted.result.directory
    with pytest.raises(BonsaiError, match="is an adaptation, which measures no sub-models: resume it without a metric"):
        resume(directory, registry=registry, metric=lambda model, tokenizer: 0.0)


def test_the_work_adds_up_after_a_stop(adapted: Adapted, tmp_path: Path) -> None:
    for stopped in ("whole", "1", "4", "6"):
        shutil.copytree(adapted.copies / stopped, tmp_path / stopped)
        listening, listener = Registry(), Listener()
        listening.register(listener, "the listener")
        resume(tmp_path / stopped, registry=listening)
        (promised,) = [event.forward_tokens for event in listener.events if isinstance(event, AdaptationStarted)]
        assert sum(event.tokens for event in listener.events if isinstance(event, TokensDone)) == promised, stopped


def test_micro_batches_make_the_step_of_the_whole_batch(pruned: Path, registry: Registry, tmp_path: Path) -> None:
    found = [
        adapt(configured(pruned, tmp_path / f"{size}", micro_batch_size=size, method="full"), registry=registry)
        for size in (4, 1)
    ]
    whole, parts = (result.report["losses"][-1]["loss"] for result in found)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_a_run_does_not_take_another_adaptation_for_its_own(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("{steps: 1, batch_size: 2, sequence_length: 32, evaluations: 1}")
    config = small_run.model_copy(update={"out": tmp_path / "run", "latency": False, "adapt": str(recipe)})
    run(config, registry=registry)
    recipe.write_text("{steps: 2, batch_size: 2, sequence_length: 32, evaluations: 1}")
    with pytest.raises(BonsaiError, match="steps was 1, is 2"):
        resume(tmp_path / "run", registry=registry)


def test_a_damaged_state_is_told_of(adapted: Adapted, tmp_path: Path) -> None:
    shutil.copytree(adapted.copies / "4", tmp_path / "stopped")
    (tmp_path / "stopped/state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BonsaiError, match="Delete it to begin the training anew"):
        resume(tmp_path / "stopped")


def test_what_comes_out_loads_like_what_went_in(pruned: Path, adapted: Adapted) -> None:
    result = adapted.result
    ours = load_model(str(result.model_path), device="cpu")
    anywhere = AutoModelForCausalLM.from_pretrained(result.model_path, trust_remote_code=True)
    before = load_model(str(pruned / "model"), device="cpu")
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in before.named_parameters()}
    assert ours.dtype == before.dtype
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, anywhere(ids).logits)
        assert not torch.allclose(ours(ids).logits, before(ids).logits, atol=1e-3)
    story = json.loads((result.model_path / "bonsai.json").read_text())
    assert story["base_model"] == json.loads((pruned / "model/bonsai.json").read_text())["base_model"]
    assert story["adaptation"]["config"]["method"] == "lora"


def test_weights_in_half_precision_stay_so(
    tokenizer: PreTrainedTokenizerFast, small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    Pico("llama", 2).build().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for method in ("lora", "full"):
        config = configured(
            tmp_path / "model", tmp_path / method, method=method, precision="bfloat16", dataset=small_run.dataset
        )
        result = adapt(config, registry=registry)
        assert load_model(str(result.model_path), device="cpu").dtype == torch.bfloat16
        assert result.report["perplexity"]["after"] < result.report["perplexity"]["before"]


def test_layers_that_are_left_are_compared_with_what_they_were(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"units": ("layer",), "sparsity": 0.34, "round_fraction": 0.34, "latency": False}
    settings["compensator"] = PluginChoice(name="none")  # so that there is something left to learn
    gone = run(small_run.model_copy(update={**settings, "out": tmp_path / "run"}), registry=registry)
    config = configured(
        gone.directory, tmp_path / "out", teacher_top_k=0, lm_weight=0, kl_weight=0, hidden_weight=1.0, method="full"
    )
    config = config.model_copy(update={"steps": 24})
    losses = [row["hidden"] for row in adapt(config, registry=registry).report["losses"]]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])


def test_the_teacher_is_the_dense_model(pruned: Path, adapted: Adapted) -> None:
    report = adapted.result.report
    run_report = json.loads((pruned / "report.json").read_text())
    assert report["perplexity"]["teacher"] == pytest.approx(run_report["perplexity"]["dense"], rel=1e-6)
    assert report["perplexity"]["before"] == pytest.approx(run_report["perplexity"]["pruned"], rel=1e-6)


def test_the_teacher_may_be_a_run_or_an_adaptation(
    pruned: Path, adapted: Adapted, registry: Registry, tmp_path: Path
) -> None:
    first = adapted.result
    second = adapt(configured(pruned, tmp_path / "second", teacher=str(first.directory)), registry=registry)
    assert second.report["perplexity"]["teacher"] == pytest.approx(first.report["perplexity"]["after"], rel=1e-6)


def test_the_rate_rises_and_falls() -> None:
    config = AdaptConfig(model="x", learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 20, config) for step in range(20)]
    assert rates.index(max(rates)) == 4
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] == 1.0
    assert 0.1 <= rates[-1] < 0.15


def test_the_curve_is_told_and_narrow_text_warned_of(adapted: Adapted) -> None:
    result, events, _ = adapted
    points = [event for event in events if isinstance(event, CurvePoint)]
    assert [(point.step, point.perplexity) for point in points] == [
        (row["step"], row["perplexity"]) for row in result.report["curve"]
    ]
    assert any(isinstance(event, Warned) and "better on such text" in event.text for event in events)
    assert (result.directory / "curve.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1e30, "method": "full"}, "not finite at step"),
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES=1|cannot be used"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"dataset": "missing.txt"}, "no file 'missing.txt'"),
        ({"model": "./missing"}, "no model directory"),
        ({"teacher": "./missing"}, "teacher cannot be loaded: There is no model directory"),
        ({"sequence_length": 100_000}, "fewer than one sequence"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_say_what_to_do(pruned: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BonsaiError, match=message):
        adapt(configured(pruned, tmp_path / "out", **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3, "tokens": 5}, "steps or tokens, not both"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 8"),
        ({"lm_weight": 0, "teacher": "none"}, "nothing to learn"),
        ({"metod": "lora"}, "Did you mean 'method'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BonsaiError, match=message):
        AdaptConfig.from_mapping({"model": "x", **settings}, "settings")


def test_a_run_can_be_adapted_in_one_go(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("{steps: 4, batch_size: 4, sequence_length: 32, save_minutes: 0, evaluations: 1}")
    config = small_run.model_copy(update={"latency": False, "adapt": str(recipe)})
    whole = run(config.model_copy(update={"out": tmp_path / "whole"}), registry=registry)
    assert whole.adapted is not None
    assert whole.adapted.directory == tmp_path / "whole/adapted"
    assert whole.adapted.report["perplexity"]["before"] == pytest.approx(whole.report["perplexity"]["pruned"], rel=1e-6)
    stopping = Registry()
    stopping.register(Stopper(after_step(2)), "the stopper")
    with pytest.raises(StoppedError):
        run(config.model_copy(update={"out": tmp_path / "stopped"}), registry=stopping)
    resumed = resume(tmp_path / "stopped", registry=registry)
    assert isinstance(resumed, RunResult)
    assert resumed.adapted is not None
    assert weights(resumed.adapted) == weights(whole.adapted)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("lorra", "Available: full, lora, paper, paper-c4, scales"),
        ("{teacher: ./missing}", "teacher cannot be loaded"),
        ("{dataset: missing.txt}", "no file 'missing.txt'"),
        ("{sequence_length: 100000}", "fewer than one sequence"),
        (f"{{teacher_top_k: {VOCABULARY}}}", "is not below the vocabulary"),
    ],
)
def test_what_is_wrong_with_an_adaptation_is_found_before_anything_is_pruned(
    small_run: RunConfig, registry: Registry, recipe: str, message: str, tmp_path: Path
) -> None:
    if recipe.startswith("{"):
        (tmp_path / "after.yaml").write_text(recipe)
        recipe = str(tmp_path / "after.yaml")
    config = small_run.model_copy(update={"out": tmp_path / "out", "adapt": recipe})
    for what in (run, dry_run):
        with pytest.raises(BonsaiError, match=message):
            what(config, registry=registry)
    assert not (tmp_path / "out").exists()
