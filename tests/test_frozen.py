"""Parents that do not fit: measured where they are, sliced on their way from file to file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GROUPED, LAYERS, PICOS, Pico, measured, saved
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import bonsai_core.checkpoint.stream
from bonsai_core import BonsaiError, Registry, RunConfig, run
from bonsai_core.engine.lifecycle import RunResult
from bonsai_core.model.load import load_model
from bonsai_core.model.verify import logits

# Biases, fused and interleaved projections, tied and renamed weights, an MLP without a module.
UNLIKE = [
    next(p for p in PICOS if p.family == name)
    for name in ("llama", "gemma2", "phi", "phi3", "gpt_neox", "opt", "falcon")
]
SPREAD = {"device_map": "auto", "max_memory": "cpu=170KB"}

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is optional")


def parent_of(pico: Pico, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    return saved(pico, tokenizer, directory, max_shard_size="60KB")


def both_ways(
    small_run: RunConfig, registry: Registry, parent: Path, folder: Path, **settings: Any
) -> tuple[RunResult, RunResult]:
    """A run in memory, and the same one with the model on disk."""
    base = {**small_run.model_dump(), "model": parent, "prior_samples": 4, "latency": False, **settings}
    base["model"] = str(parent)
    usual = run(RunConfig.model_validate({**base, "out": folder / "usual"}), registry=registry)
    spread = run(RunConfig.model_validate({**base, **SPREAD, "out": folder / "spread"}), registry=registry)
    return usual, spread


def assert_alike(usual: RunResult, spread: RunResult) -> None:
    kept = [json.loads((one.model_path / "bonsai.json").read_text())["kept_units"] for one in (usual, spread)]
    assert kept[0] == kept[1]
    for one, other in zip(usual.report["rounds"], spread.report["rounds"], strict=True):
        assert other["divergence"]["held_out"] == pytest.approx(one["divergence"]["held_out"], rel=1e-3)
    assert spread.report["perplexity"]["pruned"] == pytest.approx(usual.report["perplexity"]["pruned"], rel=1e-4)
    assert spread.report["parameters"] == usual.report["parameters"]
    models = [load_model(str(one.model_path)) for one in (usual, spread)]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    atol = 1e-3 * float(logits(models[0]).abs().max())
    torch.testing.assert_close(logits(models[1]), logits(models[0]), rtol=0, atol=atol)
    configs = [json.loads((one.model_path / "config.json").read_text()) for one in (usual, spread)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("pico", UNLIKE, ids=str)
def test_a_model_on_disk_is_pruned_like_one_in_memory(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, pico: Pico, tmp_path: Path
) -> None:
    parent = parent_of(pico, tokenizer, tmp_path / "parent")
    assert_alike(*both_ways(small_run, registry, parent, tmp_path))


@pytest.mark.parametrize("pico", [p for p in GROUPED if p.family in ("falcon", "phi3")], ids=str)
def test_query_heads_are_cut_from_files_where_they_share_a_linear(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, pico: Pico, tmp_path: Path
) -> None:
    parent = parent_of(pico, tokenizer, tmp_path / "parent")
    assert_alike(*both_ways(small_run, registry, parent, tmp_path, units=("query", "mlp")))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("placed", [{}, SPREAD], ids=["in memory", "on disk"])
def test_a_parent_in_half_precision_gives_a_checkpoint_in_half_precision(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    dtype: str,
    placed: Any,
    tmp_path: Path,
) -> None:
    pico = Pico("llama", 2)
    pico.build().to(getattr(torch, dtype)).save_pretrained(tmp_path / "parent")
    tokenizer.save_pretrained(tmp_path / "parent")
    settings = {"model": str(tmp_path / "parent"), "prior_samples": 4, "latency": False, **placed}
    result = run(
        RunConfig.model_validate({**small_run.model_dump(), **settings, "out": tmp_path / "run"}), registry=registry
    )
    loaded = load_model(str(result.model_path))
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, dtype)}
    assert result.report["sparsity"]["decoder"] >= small_run.sparsity
    found = measured(small_run, tmp_path / "run")
    assert np.log(found["perplexity"]) == pytest.approx(np.log(result.report["perplexity"]["pruned"]), rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"compensator": "bias"},
        {"compensator": "none", "metric": "perplexity", "prior": "wanda"},
        {"shapes": "uniform"},
        {"units": ("attention", "mlp", "sublayer", "layer"), "sparsity": 0.5, "submodels": 8},
        {"units": ("layer",), "sparsity": 0.34, "round_fraction": 0.34},
        {"units": ("query", "mlp", "layer"), "sparsity": 0.4, "submodels": 16, "search": 1, "search_samples": 4},
        {"min_units": 0, "sparsity": 0.6, "round_fraction": 0.3, "compensator": "bias"},
        {"search": 1, "search_samples": 4, "resample": "fresh"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_all_that_a_run_may_do_it_does_on_disk_too(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, settings: Any, tmp_path: Path
) -> None:
    parent = parent_of(Pico("llama", 2, attention_bias="bias" in settings.values()), tokenizer, tmp_path / "parent")
    assert_alike(*both_ways(small_run, registry, parent, tmp_path, **settings))


def test_nearly_all_of_it_is_on_disk(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    parent = parent_of(Pico("llama", 2), tokenizer, tmp_path)
    model = load_model(str(parent), device="cpu", **SPREAD)  # type: ignore[arg-type]
    assert "disk" in model.hf_device_map.values()
    assert any(parameter.device.type == "meta" for parameter in model.parameters())


def test_shards_have_an_index(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bonsai_core.checkpoint.stream, "SHARD_BYTES", 30_000)
    parent = parent_of(Pico("llama", 2), tokenizer, tmp_path / "parent")
    usual, spread = both_ways(small_run, registry, parent, tmp_path)
    assert len(list(spread.model_path.glob("model-*-of-*.safetensors"))) > 2
    assert_alike(usual, spread)


def test_other_names_on_disk_are_an_error(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = parent_of(next(p for p in PICOS if p.family == "mixtral"), tokenizer, tmp_path / "parent")
    with pytest.raises(BonsaiError, match="mixture of experts is pruned in memory"):
        run(RunConfig(**{**small_run.model_dump(), **SPREAD, "model": str(parent), "out": tmp_path / "run"}))


@pytest.mark.parametrize("max_memory", ["20GiB", "cpu=", "="])
def test_limits_that_cannot_be_read_are_an_error(pico_directory: Path, max_memory: str) -> None:
    with pytest.raises(BonsaiError, match="write it like 0=20GiB,cpu=60GiB"):
        load_model(str(pico_directory), device_map="auto", max_memory=max_memory)


@needs_bitsandbytes
@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
def test_a_quantised_parent_gives_a_checkpoint_in_full_precision(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, load_in: str, tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    config = Pico("llama", 2).config
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16  # bitsandbytes wants blocks of 64
    AutoModelForCausalLM.from_config(config).save_pretrained(parent)
    tokenizer.save_pretrained(parent)
    settings = {"model": str(parent), "load_in": load_in, "prior_samples": 4, "latency": False}
    result = run(RunConfig.model_validate({**small_run.model_dump(), **settings, "out": tmp_path / "run"}))
    kept = json.loads((result.model_path / "bonsai.json").read_text())["kept_units"]
    loaded, dense = load_model(str(result.model_path)), load_model(str(parent))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    for layer in range(LAYERS):
        kept_rows = torch.from_numpy(np.array(kept[f"layers.{layer}.mlp"]))
        gate, whole = (m.model.layers[layer].mlp.gate_proj.weight for m in (loaded, dense))
        assert torch.equal(gate, whole[kept_rows])
    assert AutoModelForCausalLM.from_pretrained(result.model_path).config.to_dict().get("quantization_config") is None
    found = measured(small_run, tmp_path / "run")
    assert np.log(found["perplexity"]) == pytest.approx(np.log(result.report["perplexity"]["pruned"]), rel=0.1)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="it is installed")
def test_without_bitsandbytes_it_says_what_to_install(pico_directory: Path) -> None:
    with pytest.raises(BonsaiError, match=r"bonsai-prune\[quantized\]"):
        load_model(str(pico_directory), load_in="4bit")
