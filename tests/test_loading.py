"""What is loaded is what the files hold, and what is saved is what was measured: no weight is made up or lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Listener, Pico, StoppedError, Stopper, measured, saved, with_token_beyond
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import (
    AdaptConfig,
    BonsaiError,
    EvalConfig,
    Registry,
    RunConfig,
    adapt,
    evaluate,
    hookimpl,
    load_model,
    resume,
    run,
)
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.setup import open_job
from bonsai_core.engine.workers import Workers
from bonsai_core.events import Event, StageStarted, Warned
from bonsai_core.model.loading.parent import load_unit_table
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger

SHORT = {
    "steps": 1,
    "sequence_length": 32,
    "eval_samples": 2,
    "eval_sequence_length": 64,
    "batch_size": 4,
    "device": "cpu",
}
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BONSAI = shutil.which("bonsai", path=str(Path(sys.executable).parent)) or "bonsai"

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Way = Callable[[str, RunConfig, Path], Any]


def changed(parent: Path, copy: Path, change: Change, **config: Any) -> Path:
    """A model with other tensors in its file, and other fields in its configuration."""
    shutil.copytree(parent, copy)
    save_file(change(load_file(parent / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    fields = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**fields, **config}))
    return copy


def without(part: str) -> Change:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def as_run(**settings: Any) -> Way:
    return lambda model, config, out: run(
        RunConfig.model_validate({**config.model_dump(), "model": model, "out": out, "latency": False, **settings})
    )


def as_eval(model: str, config: RunConfig, out: Path) -> dict[str, Any]:
    return measured(config, model)


def as_adapt(model: str, config: RunConfig, out: Path) -> Any:
    return adapt(AdaptConfig(model=model, dataset=config.dataset, eval_dataset=config.eval_dataset, steps=1, out=out))


def as_units(model: str, config: RunConfig, out: Path) -> Any:
    return load_unit_table(config.model_copy(update={"model": model}), Registry())


WAYS = {
    "run": as_run(),
    "from disk": as_run(device_map="auto", max_memory="cpu=170KB"),
    "on disk alone": as_run(device_map="auto", max_memory="cpu=20KB"),
    "eval": as_eval,
    "adapt": as_adapt,
    "units": as_units,
}
DAMAGES: dict[str, tuple[Change, dict[str, Any], str]] = {
    "prefix": (
        lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
        {},
        r"not in its files \(\d+ of \d+\): model\.\S+.*All names in the files begin with '_orig_mod\.'",
    ),
    "no embeddings": (without("embed_tokens"), {}, rf"not in its files \(1 of \d+\): {EMBEDDINGS}"),
    "no mlp": (without("layers.1.mlp"), {}, r"not in its files \(3 of \d+\): model.layers.1.mlp.gate_proj.weight"),
    "vocabulary": (lambda tensors: tensors, {"vocab_size": 520}, r"embed_tokens.weight is \[512, 32\] in the files"),
    "biases": (
        lambda tensors: {**tensors, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
        {},
        r"no place for.*model.layers.0.self_attn.q_proj.bias.*attention_bias",
    ),
    "a layer more": (
        lambda tensors: {**tensors, "model.layers.3.mlp.up_proj.weight": torch.ones(48, 32)},
        {},
        r"no place for.*model.layers.3.mlp.up_proj.weight.*num_hidden_layers",
    ),
    "no heads": (lambda tensors: tensors, {"num_attention_heads": 0}, r"Cannot load .*ZeroDivisionError"),
    "no such type": (lambda tensors: tensors, {"dtype": "\x1b[31mx"}, r"Cannot load .*a field of config.json"),
    "padding": (lambda tensors: tensors, {"pad_token_id": 600}, r"Cannot load .*Padding_idx"),
    "module": (
        lambda tensors: {**tensors, "model.norm": torch.ones(2), "model.layers.0": torch.ones(1)},
        {},
        r"no place for.*model.norm",
    ),
    "norms": (
        lambda tensors: {**tensors, "model.layers.0.self_attn.q_norm.weight": torch.ones(8)},
        {},
        r"no place for.*q_norm",
    ),
}


@pytest.mark.parametrize("way", sorted(WAYS.keys() - {"on disk alone"}))
@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_do_not_hold_the_model_are_refused_with_the_names(
    pico_directory: Path, small_run: RunConfig, way: str, damage: str, tmp_path: Path
) -> None:
    change, config, message = DAMAGES[damage]
    model = changed(pico_directory, tmp_path / "model", change, **config)
    with pytest.raises(BonsaiError, match=message):
        WAYS[way](str(model), small_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_for_names_with_a_prefix_mends_the_file(pico_directory: Path, tmp_path: Path) -> None:
    model = changed(pico_directory, tmp_path / "model", DAMAGES["prefix"][0])
    with pytest.raises(BonsaiError) as caught:
        load_model(str(model))
    command = str(caught.value).partition("for each file: ")[2]
    subprocess.run(command.replace("python ", f"{sys.executable} ", 1), shell=True, cwd=model, check=True)
    whole = load_file(pico_directory / "model.safetensors")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_model(str(model)).state_dict().items())


def test_a_prefix_that_a_shell_would_execute_is_in_no_command(pico_directory: Path, tmp_path: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"$(touch x).{name}": tensor for name, tensor in tensors.items()}

    with pytest.raises(BonsaiError) as caught:
        load_model(str(changed(pico_directory, tmp_path / "model", rename)))
    assert "$(" not in str(caught.value)


def test_tensors_of_no_part_of_the_model_are_told_of_and_known_buffers_are_not(
    pico_directory: Path, small_run: RunConfig, tmp_path: Path
) -> None:
    def add(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        return {**tensors, **buffer, "v_head.summary.weight": torch.ones(3)}

    model = changed(pico_directory, tmp_path / "model", add)
    with pytest.warns(UserWarning, match=r"no part of the model .*\(1 of them\).* left out: v_head.summary.weight\."):
        load_model(str(model))
    registry, listener = Registry(), Listener()
    registry.register(listener, "the listener")
    base = {**small_run.model_dump(), "model": str(model), "latency": False, "out": tmp_path / "run"}
    run(RunConfig.model_validate(base), registry=registry)
    told = [event.text for event in listener.events if isinstance(event, Warned) and "v_head" in event.text]
    assert len(told) == 1


# Tied embeddings


@pytest.fixture
def tied(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return saved(Pico("llama", 2, tied=True), tokenizer, tmp_path / "tied")


@pytest.mark.parametrize("way", ["run", "from disk"])
def test_embeddings_that_the_files_have_untied_are_saved_untied(
    tied: Path, small_run: RunConfig, way: str, tmp_path: Path
) -> None:
    own = 0.2 * torch.randn(512, 32, generator=torch.Generator().manual_seed(0))
    model = changed(tied, tmp_path / "untied", lambda tensors: {**tensors, HEAD: own})
    result = WAYS[way](str(model), small_run, tmp_path / "run")
    removed = result.report["sparsity"]["decoder"]
    assert json.loads((result.model_path / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(load_file(result.model_path / "model.safetensors")[HEAD], own)
    assert measured(small_run, result.model_path)["perplexity"] == pytest.approx(
        result.report["perplexity"]["pruned"], rel=1e-4
    )
    assert result.report["parameters"]["dense"] == load_model(str(model)).num_parameters()
    assert result.report["parameters"]["pruned"] == load_model(str(result.model_path)).num_parameters()
    assert removed == pytest.approx(small_run.sparsity, abs=0.02)


@pytest.mark.parametrize("way", ["run", "from disk", "on disk alone"])
def test_tied_embeddings_are_found_under_either_name_or_both(
    tied: Path, small_run: RunConfig, way: str, tmp_path: Path
) -> None:
    def twice(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, HEAD: tensors[EMBEDDINGS].clone()}

    def as_the_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return without("embed_tokens")(twice(tensors))

    usual = WAYS[way](str(tied), small_run, tmp_path / "usual")
    for store in (as_the_head, twice):
        model = changed(tied, tmp_path / f"model {store.__name__}", store)
        result = WAYS[way](str(model), small_run, tmp_path / store.__name__)
        assert result.report["perplexity"] == usual.report["perplexity"]
        assert result.report["parameters"] == usual.report["parameters"]


# What was saved is opened again


def test_the_report_says_how_the_checkpoint_was_opened(small_run: RunConfig, tmp_path: Path) -> None:
    found = {}
    for shapes in ("free", "uniform"):
        settings = {**small_run.model_dump(), "shapes": shapes, "latency": False, "out": tmp_path / shapes}
        found[shapes] = run(RunConfig.model_validate(settings)).report["verified"]
        loss = found[shapes]["loss"]
        assert all(value == pytest.approx(loss, rel=1e-5) for value in found[shapes]["loaded"].values())
    assert [*found["free"]["loaded"]] == ["bonsai-prune installed", "trust_remote_code=True"]
    assert [*found["uniform"]["loaded"]] == ["transformers"]
    modes = {file.stat().st_mode for file in (tmp_path / "free" / "model").iterdir()}
    assert len(modes) == 1, "a server under another name reads all of it or nothing"


class Tamperer:
    """Changes a file of the checkpoint when it is about to be opened again."""

    def __init__(self, model: Path, change: Callable[[Path], None]) -> None:
        self._model = model
        self._change = change

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "verify":
            self._change(self._model)


def other_weights(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, model / "model.safetensors", {"format": "pt"})


def other_code(model: Path) -> None:
    with (model / "modeling_bonsai.py").open("a") as file:
        file.write("\nraise AssertionError('a stranger is at work')\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [(other_weights, "is not the model that was measured"), (other_code, "so it is not run")],
    ids=["weights", "code"],
)
def test_a_checkpoint_that_is_not_what_was_measured_fails_the_run(
    small_run: RunConfig, change: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    registry, out = Registry(), tmp_path / "run"
    registry.register(Tamperer(out / "model", change), "the tamperer")
    with pytest.raises(BonsaiError, match=message):
        run(small_run.model_copy(update={"out": out, "latency": False}), registry=registry)
    assert not (out / "report.json").exists()
    with pytest.raises(BonsaiError, match=message):
        resume(out)


def test_a_checkpoint_that_was_deleted_is_written_and_opened_again(small_run: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = run(small_run.model_copy(update={"out": out, "latency": False})).report
    shutil.rmtree(out / "model")
    registry = Registry()
    registry.register(Tamperer(out / "model", other_weights), "the tamperer")
    with pytest.raises(BonsaiError, match="is not the model that was measured"):
        resume(out, registry=registry)
    shutil.rmtree(out / "model")
    assert resume(out).report["perplexity"] == whole["perplexity"]


def test_an_adapted_checkpoint_is_opened_again_too(small_run: RunConfig, tmp_path: Path) -> None:
    pruned, out = tmp_path / "run", tmp_path / "adapted"
    run(small_run.model_copy(update={"out": pruned, "latency": False}))
    config = AdaptConfig.model_validate({**SHORT, "model": str(pruned), "out": out})
    registry = Registry()
    registry.register(Stopper(lambda event: isinstance(event, StageStarted) and event.stage == "verify"), "a stopper")
    with pytest.raises(StoppedError):
        adapt(config, registry=registry)
    kept = (out / "model" / "model.safetensors").read_bytes()
    other_weights(out / "model")
    with pytest.raises(BonsaiError, match="is not the model that was measured"):
        resume(out)
    (out / "model" / "model.safetensors").write_bytes(kept)
    assert resume(out).report["verified"]["loaded"].keys() == {
        "bonsai-prune installed",
        "trust_remote_code=True",
    }
    shutil.rmtree(out / "model")  # it is trained and written again
    registry = Registry()
    registry.register(Tamperer(out / "model", other_weights), "the tamperer")
    with pytest.raises(BonsaiError, match="is not the model that was measured"):
        resume(out, registry=registry)


def test_a_model_on_disk_in_half_precision_is_opened_so(small_run: RunConfig, tmp_path: Path) -> None:
    half = as_run(device_map="auto", max_memory="cpu=170KB", dtype="bfloat16")
    report = half(str(small_run.model), small_run, tmp_path / "run").report
    assert report["verified"]["loaded"]["trust_remote_code=True"] == pytest.approx(report["verified"]["loss"], rel=0.05)


# Tokens


@pytest.fixture
def more_tokens(pico_directory: Path, small_run: RunConfig, tmp_path: Path) -> tuple[Path, Path]:
    """A model whose tokenizer got a token that its embeddings have no row for, and a text with it."""
    model = with_token_beyond(pico_directory, tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text(Path(small_run.dataset).read_text().replace(" ", " <tool>"))
    return model, text


def test_tokens_beyond_the_embeddings_are_refused_by_name(
    more_tokens: tuple[Path, Path], small_run: RunConfig, tmp_path: Path
) -> None:
    model, text = more_tokens
    message = r"tokens beyond the model's 512 embedding rows: '<tool>' \(512\)\. Its tokenizer has 513 tokens"
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "Which <tool>?", "choices": ["a", "b"], "gold": 0}) + "\n")
    out, plain = tmp_path / "out", {"dataset": small_run.dataset, "eval_dataset": small_run.eval_dataset}
    base = {**small_run.model_dump(), "model": str(model), "out": out}
    settings: dict[str, Any]
    for settings in (
        {"dataset": str(text)},
        {"eval_dataset": str(text)},
        {"metric_dataset": str(text)},
        {"metric": "choice", "metric_dataset": str(questions), "samples": 1},
    ):
        with pytest.raises(BonsaiError, match=message):
            run(RunConfig.model_validate({**base, **settings}))
    for settings in ({"dataset": str(text)}, {"dataset": plain["dataset"], "tasks": [str(questions)]}):
        with pytest.raises(BonsaiError, match=message):
            evaluate(EvalConfig.model_validate({"models": [str(model)], "dense": "none", **settings}))
    for settings in ({"dataset": str(text)}, {"eval_dataset": str(text)}):
        with pytest.raises(BonsaiError, match=message):
            adapt(AdaptConfig.model_validate({"model": str(model), **plain, **settings, "steps": 1, "out": out}))
    assert not out.exists()


def test_a_family_that_reads_text_from_bos_on_asks_for_one(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = saved(Pico("gemma2", 2, tied=True), tokenizer, tmp_path / "gemma")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BonsaiError, match=r"Set bos_token in its tokenizer_config\.json"):
        as_run()(str(model), small_run, tmp_path / "run")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="it is installed")
def test_a_sentencepiece_tokenizer_says_what_reads_it(
    pico_directory: Path, small_run: RunConfig, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(pico_directory, tmp_path / "model"))
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"a model of SentencePiece")
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(BonsaiError, match=r"pip install 'bonsai-prune\[sentencepiece\]'"):
        as_run()(str(model), small_run, tmp_path / "run")


def test_a_model_without_a_tokenizer_is_said_to_have_none(
    pico_directory: Path, small_run: RunConfig, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(pico_directory, tmp_path / "model"))
    for file in model.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BonsaiError, match=r"has no tokenizer: none of tokenizer\.json"):
        as_run()(str(model), small_run, tmp_path / "run")


# Names of models


def test_a_run_directory_means_its_checkpoint(small_run: RunConfig, tmp_path: Path) -> None:
    free, uniform = (
        run(small_run.model_copy(update={"shapes": shapes, "out": tmp_path / shapes, "latency": False}))
        for shapes in ("free", "uniform")
    )
    with pytest.raises(BonsaiError, match=f"cannot be pruned again. Prune its base model, {small_run.model}, with"):
        as_run()(str(free.directory), small_run, tmp_path / "again")
    again = as_run()(str(uniform.directory), small_run, tmp_path / "again")
    assert again.report["parameters"]["dense"] == uniform.report["parameters"]["pruned"]
    found = evaluate(
        EvalConfig(models=(str(again.directory),), dataset=str(small_run.eval_dataset), eval_sequence_length=64)
    )
    assert [model["dense"] for model in found["models"]] == [True, False]
    assert found["models"][0]["parameters"] == uniform.report["parameters"]["pruned"]
    config = AdaptConfig.model_validate({**SHORT, "model": str(again.directory), "out": tmp_path / "adapted"})
    assert adapt(config).report["teacher"] == str(uniform.directory)


@pytest.mark.parametrize("beside", [True, False], ids=["beside weights", "alone"])
def test_an_adapter_is_not_a_model(pico_directory: Path, small_run: RunConfig, beside: bool, tmp_path: Path) -> None:
    model = tmp_path / "model"
    if beside:
        shutil.copytree(pico_directory, model)
    model.mkdir(exist_ok=True)
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base"}))
    message = "an adapter .* beside a model" if beside else "an adapter .* for the model me/base"
    with pytest.raises(BonsaiError, match=f"{message}.*merge_and_unload"):
        as_run()(str(model), small_run, tmp_path / "run")


def test_a_model_of_the_hub_without_safetensors_is_refused(pico_directory: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--pickled"
    snapshot = Path(shutil.copytree(pico_directory, repository / "snapshots" / "0"))
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "COLUMNS": "500"}
    done = subprocess.run(
        [BONSAI, "eval", "me/pickled"], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "me/pickled has no model.safetensors on the hub" in done.stderr
    assert "Traceback" not in done.stderr


# Layers and sub-models


def test_layers_that_want_a_mask_of_the_batch_are_recognised_and_pruned(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from transformers import XGLMConfig

    sizes = {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "dropout": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(XGLMConfig(vocab_size=512, max_position_embeddings=256, **sizes))
    model.save_pretrained(tmp_path / "xglm")
    tokenizer.save_pretrained(tmp_path / "xglm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = as_run(sparsity=0.1)(str(tmp_path / "xglm"), small_run, tmp_path / "run")
    assert result.report["sparsity"]["decoder"] >= 0.1


def test_memory_of_repairs_does_not_grow_with_sub_models_times_patterns(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    job = open_job(small_run.model_copy(update={"prior_samples": 4}), registry, print)
    alive_U = job.table.keep_all()
    directory = RunDirectory(tmp_path / "run")
    with directory.begin(job.config, print) as journal:
        ledger = Ledger(directory, journal, print)
        workers = Workers(job, ledger)
        statistics = RoundStatistics(job, job.calibration.prior_RNT[0], alive_U, workers)
        with Repairs.of_submodels(job, statistics, workers, ledger) as repairs:
            keep_MU = np.random.default_rng(0).random((1000, len(alive_U))) < 0.9
            tracemalloc.start()
            try:
                assert not repairs.affordable(keep_MU)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert peak < 4 * keep_MU.nbytes
