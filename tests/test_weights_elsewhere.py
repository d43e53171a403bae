"""Parents that do not fit: measured where they are, sliced on their way from file to file."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from conftest import (
    GROUPED,
    LAYERS,
    MIXTURES,
    PICOS,
    Listener,
    Pico,
    StoppedError,
    Stopper,
    family_of,
    measured,
    optional,
    saved,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, RunConfig, RunResult, load_model, resume, run
from bonsai_core.checkpoint.stream import save_streamed
from bonsai_core.events import Journaled, Warned
from bonsai_core.model.recognition.laws import logits
from bonsai_core.model.sites.table import unit_table
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.subject import Subject

# Biases, fused and interleaved projections, tied and renamed weights, an MLP without a module.
UNLIKE = [
    next(p for p in PICOS if p.family == name)
    for name in ("llama", "gemma2", "phi", "phi3", "gpt_neox", "opt", "falcon")
]
SPREAD = {"device_map": "auto", "max_memory": "cpu=170KB"}

needs_bitsandbytes = optional(find_spec("bitsandbytes"), "bitsandbytes is optional")


def parent_of(pico: Pico, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    return saved(pico, tokenizer, directory, max_shard_size="60KB")


def both_ways(
    small_run: RunConfig, registry: Registry, parent: Path, folder: Path, **settings: Any
) -> tuple[RunResult, RunResult]:
    """A run in memory, and the same one with the model on disk."""
    placed = {**SPREAD, "max_memory": settings.pop("max_memory", SPREAD["max_memory"])}
    base = {**small_run.model_dump(), "model": str(parent), "prior_samples": 4, "latency": False, **settings}
    usual = run(RunConfig.model_validate({**base, "out": folder / "usual"}), registry=registry)
    spread = run(RunConfig.model_validate({**base, **placed, "out": folder / "spread"}), registry=registry)
    return usual, spread


def weights_on_disk(directory: Path) -> dict[str, list[int]]:
    """Names and shapes of the tensors in a checkpoint's files."""
    found: dict[str, list[int]] = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118  (no mapping)
    return found


def assert_alike(usual: RunResult, spread: RunResult) -> None:
    kept = [json.loads((one.model_path / "bonsai.json").read_text())["kept_units"] for one in (usual, spread)]
    assert kept[0] == kept[1]
    for one, other in zip(usual.report["rounds"], spread.report["rounds"], strict=True):
        # The difference of two float32 numbers near 6 is known to about 1e-7.
        for text in ("held_out", "guard"):
            assert other["divergence"][text] == pytest.approx(one["divergence"][text], rel=1e-3, abs=1e-7)
    assert spread.report["perplexity"]["pruned"] == pytest.approx(usual.report["perplexity"]["pruned"], rel=1e-4)
    assert spread.report["parameters"] == usual.report["parameters"]
    assert weights_on_disk(usual.model_path) == weights_on_disk(spread.model_path)
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


WAYS = pytest.mark.parametrize("units", [("attention", "mlp", "experts"), ("expert_width",)], ids=["experts", "widths"])


@pytest.mark.parametrize("shapes", ["free", "uniform"])
@WAYS
@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_a_mixture_on_disk_is_pruned_like_one_in_memory(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    pico: Pico,
    units: tuple[str, ...],
    shapes: str,
    tmp_path: Path,
) -> None:
    parent = parent_of(pico, tokenizer, tmp_path / "parent")
    settings = {"units": units, "shapes": shapes, "sparsity": 0.2}
    if shapes == "uniform" and "experts" in units:
        settings["round_fraction"] = 0.2
    usual, spread = both_ways(small_run, registry, parent, tmp_path, **settings)
    assert_alike(usual, spread)
    one_by_one = any(".experts.0." in name for name in weights_on_disk(spread.model_path))
    assert one_by_one == (shapes == "uniform")  # as in stock checkpoints


@WAYS
@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_masks_of_offloaded_experts_give_what_they_give_in_memory(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, pico: Pico, units: Any, tmp_path: Path
) -> None:
    parent = parent_of(pico, tokenizer, tmp_path)
    family = family_of(registry, pico)
    usual, table = Subject(pico.build(), family, units=units), unit_table(pico.build(), family, units)
    model = cpu_offload(load_model(str(parent)), execution_device=torch.device("cpu"))
    frozen = Subject(model, family, table=table, storage=Elsewhere(model, family, WeightFiles(parent, model)))
    dense, dense_there = logits(usual.model), logits(frozen.model)
    torch.testing.assert_close(dense_there, dense)
    keep_U = table.keep_all()
    for site in table:
        if site.in_mixture:
            keep_U[site.units.start : site.units.start + site.num_units // 2] = False
    with usual.masked(keep_U), frozen.masked(keep_U):
        masked = logits(usual.model)
        assert not torch.allclose(masked, dense)
        torch.testing.assert_close(logits(frozen.model), masked)
    assert torch.equal(logits(frozen.model), dense_there), "a trace was left"


def test_a_mixture_in_part_on_disk_is_pruned_like_one_in_memory(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = parent_of(Pico("mixtral", 2), tokenizer, tmp_path / "parent")
    limit = "cpu=300KB"
    model = load_model(str(parent), device="cpu", device_map="auto", max_memory=limit)
    assert {"cpu", "disk"} <= {where for name, where in model.hf_device_map.items() if "layers" in name}
    settings = {"units": ("attention", "expert_width"), "max_memory": limit}
    assert_alike(*both_ways(small_run, registry, parent, tmp_path, **settings))


def test_a_mixture_on_disk_that_was_stopped_goes_on_to_the_same_bytes(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = parent_of(Pico("mixtral", 2), tokenizer, tmp_path / "parent")
    settings = {"model": str(parent), "prior_samples": 4, "latency": False, "units": ("attention", "expert_width")}
    base = {**small_run.model_dump(), **SPREAD, **settings}
    whole = run(RunConfig.model_validate({**base, "out": tmp_path / "whole"}), registry=registry)
    stopping = Registry()
    stopper = Stopper(lambda event: isinstance(event, Journaled) and event.key == "round-1/selection")
    stopping.register(stopper, "the stopper")
    with pytest.raises(StoppedError):
        run(RunConfig.model_validate({**base, "out": tmp_path / "stopped"}), registry=stopping)
    resumed = resume(tmp_path / "stopped", registry=registry)
    for name in ("model.safetensors", "config.json"):
        assert (resumed.model_path / name).read_bytes() == (whole.model_path / name).read_bytes()


@pytest.mark.parametrize("change", ["without", "another"])
@WAYS
def test_experts_that_are_not_as_many_on_disk_are_an_error(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, units: Any, change: str, tmp_path: Path
) -> None:
    parent = saved(Pico("qwen3_moe", 2), tokenizer, tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    name = "model.layers.1.mlp.experts.{}.down_proj.weight"
    if change == "without":
        del tensors[name.format(2)]
    else:
        tensors[name.format(5)] = tensors[name.format(2)].clone()
    save_file(tensors, parent / "model.safetensors", metadata={"format": "pt"})
    settings = {**small_run.model_dump(), **SPREAD, "units": units, "model": str(parent), "out": tmp_path / "run"}
    with pytest.raises(BonsaiError, match=r"\(1 of \d+\): model.layers.1.mlp.experts.down_proj"):
        run(RunConfig.model_validate(settings))
    assert not (tmp_path / "run").exists()


def test_experts_that_lie_on_disk_together_are_found_too(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    apart, together = tmp_path / "apart", tmp_path / "together"
    pico = next(p for p in MIXTURES if p.family == "mixtral")
    parent_of(pico, tokenizer, apart)
    pico.build().save_pretrained(together, save_original_format=False)
    tokenizer.save_pretrained(together)
    assert weights_on_disk(apart).keys() != weights_on_disk(together).keys()
    runs = [
        RunConfig.model_validate(
            {**small_run.model_dump(), **SPREAD, "latency": False, "model": str(parent), "out": parent / "run"}
        )
        for parent in (apart, together)
    ]
    models = [load_model(str(run(config, registry=registry).model_path)) for config in runs]
    assert torch.equal(logits(models[0]), logits(models[1]))


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
        {"model": "qwen2_moe", "units": ("attention", "mlp", "experts", "sublayer", "layer"), "sparsity": 0.4},
        {"model": "mixtral", "units": ("query", "experts"), "search": 1, "search_samples": 4},
        {"model": "mixtral", "tied": True, "units": ("query", "expert_width", "layer"), "sparsity": 0.4},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_all_that_a_run_may_do_it_does_on_disk_too(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, settings: Any, tmp_path: Path
) -> None:
    settings = dict(settings)
    name, tied = settings.pop("model", "llama"), settings.pop("tied", False)
    pico = Pico(name, 2, attention_bias="bias" in settings.values(), tied=tied)
    parent = parent_of(pico, tokenizer, tmp_path / "parent")
    assert_alike(*both_ways(small_run, registry, parent, tmp_path, **settings))


def test_nearly_all_of_it_is_on_disk(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    parent = parent_of(Pico("llama", 2), tokenizer, tmp_path)
    model = load_model(str(parent), device="cpu", **SPREAD)  # type: ignore[arg-type]
    assert "disk" in model.hf_device_map.values()
    assert any(parameter.device.type == "meta" for parameter in model.parameters())


def test_shards_have_an_index(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = Pico("llama", 2).build()
    save_streamed(model, tokenizer, tmp_path / "model", {}, model.state_dict().get, shard_bytes=30_000)
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) > 2
    assert logits(load_model(str(tmp_path / "model"), device="cpu")).equal(logits(model))


def test_weights_that_are_not_in_the_files_are_an_error(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = saved(Pico("llama", 2), tokenizer, tmp_path / "parent")
    tensors = load_file(parent / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, parent / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BonsaiError, match=r"\(1 of \d+\): model.layers.1.mlp.up_proj.weight"):
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


@needs_bitsandbytes
@pytest.mark.parametrize("load_in", ["8bit", "4bit"])
@pytest.mark.parametrize("units", [("experts",), ("expert_width",)], ids=str)
def test_experts_stay_as_they_are_beside_quantised_attention(
    small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, load_in: str, units: Any, tmp_path: Path
) -> None:
    registry, parent = Registry(), tmp_path / "parent"
    config = Pico("mixtral", 2).config
    config.hidden_size, config.head_dim = 64, 16
    AutoModelForCausalLM.from_config(config).save_pretrained(parent)
    tokenizer.save_pretrained(parent)
    settings = {"model": str(parent), "load_in": load_in, "units": units, "prior_samples": 4, "latency": False}
    settings = {**small_run.model_dump(), **settings, "sparsity": 0.2, "out": tmp_path / "run"}
    registry.register(listener := Listener(), "the listener")
    result = run(RunConfig.model_validate(settings), registry=registry)
    told = [event.text for event in listener.events if isinstance(event, Warned)]
    assert any(f"--load-in {load_in} quantises linears only." in text for text in told)
    loaded, dense = load_model(str(result.model_path)), load_model(str(parent))
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    kept = json.loads((result.model_path / "bonsai.json").read_text())["kept_units"]
    sliced = Subject(dense, family_of(registry, Pico("mixtral", 2)), units=units)
    keep_U = np.concatenate([np.isin(np.arange(site.num_units), kept[site.name]) for site in sliced.table])
    sliced.slice(keep_U)
    weights = sliced.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    found = measured(small_run, tmp_path / "run")
    assert np.log(found["perplexity"]) == pytest.approx(np.log(result.report["perplexity"]["pruned"]), rel=0.1)


@needs_bitsandbytes
def test_a_pruned_model_of_uneven_widths_is_measured_quantised(small_run: RunConfig, tmp_path: Path) -> None:
    result = run(small_run.model_copy(update={"out": tmp_path / "run", "latency": False}))
    widths = {layer["mlp"]["kept"] for layer in result.report["layers"]}
    assert any(width % 32 for width in widths)
    found = measured(small_run, tmp_path / "run", load_in="4bit")["perplexity"]
    assert np.log(found) == pytest.approx(np.log(result.report["perplexity"]["pruned"]), rel=0.1)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="it is installed")
def test_without_bitsandbytes_it_says_what_to_install(pico_directory: Path) -> None:
    with pytest.raises(BonsaiError, match=r"bonsai-prune\[quantized\]"):
        load_model(str(pico_directory), load_in="4bit")
