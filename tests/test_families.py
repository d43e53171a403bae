"""Every family, from its declaration to a saved model: the same numbers as transformers, with Bonsai and without."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GROUPED, HEADS, LAYERS, MIXTURES, PICOS, VOCABULARY, WIDTH, Pico, family_of, measured, saved
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, DenseTokens, Registry, RunConfig, register_checkpoints, run, token_kl, token_nll
from bonsai_core.checkpoint import save_checkpoint
from bonsai_core.engine.setup import open_job
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.recognition.laws import logits
from bonsai_core.model.subject import Subject
from bonsai_core.sources import draw_questions
from bonsai_core.sources.choices import Row
from bonsai_core.testing.family import keep_vectors

# One of each model type, and of each way in which one is built.
ONE_OF_EACH = list({(p.family, p.option if p.family == "falcon" else ""): p for p in reversed(PICOS)}.values())
# Model types whose runs are tried in uniform shapes, too; stock checkpoints of every type are tried without a run.
UNIFORM_RUNS = ("llama", "phi3", "opt", "falcon", "gemma3_text", "mixtral")
WITHOUT_BONSAI = """
import sys
sys.modules["bonsai_core"] = None
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
ids = torch.tensor({ids})
for directory in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()
    found = {{"logits": model(ids).logits.detach()}}
    for cache in ("dynamic",) if "alibi" in directory else ("dynamic", "static"):  # transformers fails there
        found[cache] = model.generate(ids, max_new_tokens=3, do_sample=False, cache_implementation=cache)
    save_file(found, Path(directory) / "found.safetensors")
"""


def subject_of(registry: Registry, pico: Pico, units: Any = ("layer",)) -> Subject:
    return Subject(pico.build(), family_of(registry, pico), units=units)


def windows() -> Any:
    return np.random.default_rng(3).integers(VOCABULARY, size=(3, 10))


def sliced(registry: Registry, pico: Pico, which: int, units: Any = ("layer",)) -> Subject:
    """0: a little of everything; 2: whole sub-layers gone as well; 3: the first layer gone, and a sub-layer."""
    subject = subject_of(registry, pico, units)
    subject.slice(keep_vectors(subject.table)[which])
    return subject


def load(directory: Path) -> Any:
    """A copy of the loaded model: products of experts' weights round by where a mapped file begins in memory."""
    return copy.deepcopy(AutoModelForCausalLM.from_pretrained(directory)).eval()


def save(subject: Subject, directory: Path, shapes: Any = "free") -> None:
    save_checkpoint(
        subject.model,
        None,
        directory,
        family=subject.family,
        per_layer=subject.layer_sizes(),
        shapes=shapes,
        provenance={},
    )


@pytest.mark.parametrize("pico", ONE_OF_EACH, ids=str)
def test_metrics_see_the_logits_of_the_model_itself(registry: Registry, pico: Pico) -> None:
    subject, ids_NT = subject_of(registry, pico), windows()
    measured = Passes(subject.model, Chunks(2 * ids_NT.shape[1], print)).predictions
    dense = measured.dense_side(ids_NT)
    with subject.masked(keep_vectors(subject.table)[0]):
        nll = measured.token_mean(lambda logits, targets, _: token_nll(logits, targets), ids_NT, None)
        kl = measured.token_mean(lambda logits, _, held: token_kl(logits, as_tokens(held)), ids_NT, dense)
        sub_model = predictions(subject.model, ids_NT)
    whole = predictions(subject.model, ids_NT)
    targets = torch.from_numpy(ids_NT[:, 1:]).flatten()
    assert nll == pytest.approx(float(token_nll(sub_model, targets).mean()), rel=1e-5)
    assert kl == pytest.approx(float(token_kl(sub_model, DenseTokens.compare(whole, sub_model)).mean()), rel=1e-3)


def as_tokens(held: DenseTokens | None) -> DenseTokens:
    assert held is not None
    return held


def predictions(model: Any, ids_NT: Any) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(torch.from_numpy(ids_NT), use_cache=False).logits[:, :-1]
    return found.flatten(0, 1)


def test_windows_of_gemma_begin_with_the_bos_token(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    speaking = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="!", eos_token="<eos>")
    for model_type, begins in (("gemma", True), ("llama", False)):
        parent = tmp_path / model_type
        next(pico for pico in ONE_OF_EACH if pico.family == model_type).build().save_pretrained(parent)
        speaking.save_pretrained(parent)
        job = open_job(small_run.model_copy(update={"model": str(parent)}), registry, print)
        drawn = job.calibration
        for windows_NT in (
            drawn.prior_RNT[0],
            drawn.data[0].windows_NT,
            drawn.held_out_NT,
            drawn.guard.windows_NT,
            job.evaluation_NT,
        ):
            assert bool((windows_NT[:, 0] == speaking.bos_token_id).all()) == begins
            assert windows_NT.shape[1] in (small_run.sequence_length, small_run.eval_sequence_length)
        rows = [Row("Is it?", ("Yes", "No"), 0)]
        (asked,) = draw_questions(rows, speaking, num_questions=1, seed=0, draw=0, warn=print, start=7)
        (plain,) = draw_questions(rows, speaking, num_questions=1, seed=0, draw=0, warn=print)
        assert asked.num_given == tuple(number + 1 for number in plain.num_given)
        for with_start, without in zip(asked.sequences, plain.sequences, strict=True):
            assert with_start.tolist() == [7, *without.tolist()]


def test_learned_positions_are_no_fewer_than_tokens(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    next(pico for pico in ONE_OF_EACH if pico.family == "opt").build().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    too_long = small_run.model_copy(update={"model": str(tmp_path), "eval_sequence_length": 300})
    with pytest.raises(BonsaiError, match="longer than the 256 positions"):
        open_job(too_long, registry, print)
    with pytest.raises(BonsaiError, match="longer than the 256 positions"):
        measured(too_long, tmp_path)


@pytest.mark.parametrize(
    ("pico", "units", "which"),
    [
        *((pico, ("layer",), which) for pico in ONE_OF_EACH for which in (0, 2, 3)),
        *((pico, ("query", "layer"), 3) for pico in GROUPED[::2]),
        *((pico, ("expert_width", "layer"), 3) for pico in MIXTURES),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_free_shapes_load_and_save_again(
    registry: Registry, pico: Pico, units: Any, which: int, tmp_path: Path
) -> None:
    register_checkpoints(registry)
    subject = sliced(registry, pico, which, units)
    save(subject, tmp_path / "model")
    loaded = load(tmp_path / "model")
    torch.testing.assert_close(logits(loaded), logits(subject.model), rtol=0, atol=0)
    loaded.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    torch.testing.assert_close(logits(again), logits(subject.model), rtol=0, atol=0)


def test_free_shapes_load_without_bonsai(registry: Registry, tmp_path: Path) -> None:
    expected: dict[Path, dict[str, Tensor]] = {}
    ids = torch.from_numpy(windows())
    layers, queries, widths = ("layer",), ("query", "layer"), ("expert_width", "layer")
    for pico, which, units in (
        *itertools.product(ONE_OF_EACH, (2, 3), (layers,)),
        *itertools.product(GROUPED, (3,), (queries,)),
        *itertools.product(MIXTURES, (3,), (widths,)),
    ):
        subject, directory = sliced(registry, pico, which, units), tmp_path / f"{pico}-{which}-{units[0]}"
        save(subject, directory)
        with torch.inference_mode():
            written = subject.model.generate(ids, max_new_tokens=3, do_sample=False)
            expected[directory] = {"logits": subject.model(ids).logits, "dynamic": written, "static": written}
    script = WITHOUT_BONSAI.format(ids=ids.tolist())
    done = subprocess.run([sys.executable, "-c", script, *expected], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for directory, tensors in expected.items():
        found = load_file(directory / "found.safetensors")
        assert set(found) == set(tensors) - ({"static"} if "alibi" in directory.name else set())
        for name in found:
            torch.testing.assert_close(found[name], tensors[name], rtol=0, atol=1e-5, msg=f"{directory.name}: {name}")


@pytest.mark.parametrize("pico", ONE_OF_EACH, ids=str)
def test_uniform_shapes_are_stock_checkpoints(registry: Registry, pico: Pico, tmp_path: Path) -> None:
    subject = subject_of(registry, pico)
    keep_U = subject.table.keep_all()
    for site in subject.table:
        if site.kind == "mlp":
            keep_U[site.first : site.first + WIDTH // 4] = False
    subject.slice(keep_U)
    save(subject, tmp_path / "model", "uniform")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == pico.family
    loaded = load(tmp_path / "model")
    torch.testing.assert_close(logits(loaded), logits(subject.model), rtol=0, atol=0)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("pico", ONE_OF_EACH, ids=str)
def test_fewer_layers_are_a_stock_checkpoint(registry: Registry, pico: Pico, layer: int, tmp_path: Path) -> None:
    subject = subject_of(registry, pico)
    keep_U = subject.table.keep_all()
    for site in subject.table:
        if site.layer == layer:
            keep_U[site.units] = False
    subject.slice(keep_U)
    save(subject, tmp_path / "model", "uniform")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == (pico.family, LAYERS - 1)
    loaded = load(tmp_path / "model")
    torch.testing.assert_close(logits(loaded), logits(subject.model), rtol=0, atol=0)


@pytest.mark.parametrize("pico", ONE_OF_EACH, ids=str)
def test_heads_go_from_uniform_shapes_or_it_says_why_not(registry: Registry, pico: Pico, tmp_path: Path) -> None:
    subject = subject_of(registry, pico)
    if subject.family.attention is None or pico.num_key_value_heads == 1:
        return
    keep_U = subject.table.keep_all()
    for site in subject.table:
        if site.kind == "attention":
            keep_U[site.first + site.num_units // 2 : site.first + site.num_units] = False
    subject.slice(keep_U)
    stock_or_refused(subject, tmp_path / "model")


def stock_or_refused(subject: Subject, directory: Path) -> Any:
    """The model loaded from a stock checkpoint; None where heads fix the stock model's hidden size, which it says."""
    assert subject.family.attention is not None
    if subject.family.attention.divides_hidden_size:
        with pytest.raises(BonsaiError, match="hidden size / heads"):
            save(subject, directory, "uniform")
        return None
    save(subject, directory, "uniform")
    loaded = load(directory)
    torch.testing.assert_close(logits(loaded), logits(subject.model), rtol=0, atol=0)
    return loaded


@pytest.mark.parametrize(
    ("pico", "shapes"),
    [
        *((pico, "free") for pico in ONE_OF_EACH),
        *((pico, "uniform") for pico in ONE_OF_EACH if pico.family in UNIFORM_RUNS),
    ],
    ids=str,
)
def test_a_run_prunes_repairs_and_saves(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    pico: Pico,
    shapes: str,
    tmp_path: Path,
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    settings = {"model": str(parent), "out": str(tmp_path / "run"), "shapes": shapes, "prior_samples": 4}
    settings["estimator"] = "average"  # which needs no time
    result = run(RunConfig(**{**small_run.model_dump(), **settings, "latency": False}), registry=registry)
    dense = AutoModelForCausalLM.from_pretrained(parent)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    freed = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in loaded.parameters())
    assert freed == result.report["parameters"]["dense"] - result.report["parameters"]["pruned"] > 0
    assert all(row["repaired_submodels"] for row in result.report["rounds"])
    assert len(result.report["rounds"]) == 2
    assert loaded.config.num_hidden_layers == LAYERS


@pytest.mark.parametrize("pico", GROUPED, ids=str)
def test_fewer_query_heads_are_a_stock_checkpoint_or_it_says_why_not(
    registry: Registry, pico: Pico, tmp_path: Path
) -> None:
    subject = subject_of(registry, pico, ("query",))
    keep_U = subject.table.keep_all()
    for site in subject.table:
        if site.kind == "query":
            keep_U[site.first : site.first + site.num_units // 2] = False
    subject.slice(keep_U)
    loaded = stock_or_refused(subject, tmp_path / "model")
    if loaded is not None:
        assert loaded.config.num_key_value_heads == pico.num_key_value_heads
        assert loaded.config.num_attention_heads == HEADS // 2


def test_without_query_heads_to_spare_it_says_so(registry: Registry) -> None:
    for model_type, reason in (("phi", "one query head"), ("gpt_neox", "one query head")):
        pico = next(pico for pico in ONE_OF_EACH if pico.family == model_type)
        with pytest.raises(BonsaiError, match=reason):
            subject_of(registry, pico, ("query",))


UNITS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("layer", {"sparsity": 0.34, "round_fraction": 0.34}),
    ("sublayer", {"sparsity": 0.3}),
    ("mlp", {"sparsity": 0.3}),
    ("attention,mlp,sublayer,layer", {"sparsity": 0.4, "submodels": 8}),
    ("attention,mlp,layer", {"sparsity": 0.4, "search": 1, "search_samples": 4, "prior_samples": 4}),
    ("query,mlp", {"sparsity": 0.3}),
    ("query,mlp", {"sparsity": 0.2, "shapes": "uniform"}),
    ("query,mlp,sublayer,layer", {"sparsity": 0.4, "submodels": 8, "search": 1, "search_samples": 4}),
    ("mlp,layer", {"sparsity": 0.4, "estimator": "none", "compensator": "bias"}),
    ("attention,mlp,layer", {"sparsity": 0.4, "estimator": "bayes", "sampler": "adaptive", "submodels": 12}),
)


@pytest.mark.parametrize(("units", "settings"), UNITS, ids=[f"{units}-{len(given)}" for units, given in UNITS])
def test_what_may_leave_is_what_leaves(
    registry: Registry, small_run: RunConfig, units: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = RunConfig.model_validate(
        {**small_run.model_dump(), **settings, "units": units, "out": tmp_path / "run", "latency": False}
    )
    report = run(config, registry=registry).report
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert sum(p.numel() for p in loaded.parameters()) == report["parameters"]["pruned"]
    assert report["sparsity"]["decoder"] >= config.sparsity
    layers = report["layers"]
    assert loaded.config.num_hidden_layers == sum(layer.get("layer", {"kept": 1})["kept"] for layer in layers) >= 1
    for layer in layers:
        gone = {kind for kind, count in layer.items() if count["kept"] < count["dense"]}
        if "layer" in layer and not layer["layer"]["kept"]:
            assert all(count["kept"] == 0 for count in layer.values())
        elif "sublayer" in config.units:
            assert gone <= {"attention", "query", "mlp"}
            assert all(layer[kind]["kept"] == 0 for kind in gone - set(config.units))
        else:
            assert gone <= set(config.units)
    assert (loaded.config.model_type == "llama") == (config.units == ("layer",) or config.shapes == "uniform")
    again = run(config.model_copy(update={"out": tmp_path / "again"}), registry=registry).report
    assert {**again, "seconds": 0, "memory": 0} == {**report, "seconds": 0, "memory": 0}
