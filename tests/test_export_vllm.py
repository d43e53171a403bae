"""What is exported for vLLM is the model; tests/runtimes/test_vllm.py has vLLM itself look at it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bonsai_plugins.exporters.runners.vllm_runner import backend
from conftest import Pico, family_of, saved
from free_models import Layer, save_free
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Checkpoint, Registry, export, register_checkpoints
from bonsai_core.checkpoint import EmptyAttention
from bonsai_core.model.loading.saved import has_own_code
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import find_exporter

PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5]])
# Two layers without attention, the first too.
EMPTIED = [Layer(0, 24), Layer(1, 40), Layer(0, 0)]
NARROW = [Layer(1, 24), Layer(2, 40), Layer(1, 3)]
PICOS = [
    Pico("llama", 2),
    Pico("llama", 2, attention_bias=True),
    Pico("qwen3", 2),
    Pico("gemma2", 2, tied=True),
    Pico("phi", 4),
    Pico("stablelm", 2),
    Pico("phi3", 2),
    Pico("gpt_neox", 4),
    Pico("opt", 4, tied=True),
]


@pytest.fixture(autouse=True)
def registered(registry: Registry) -> None:
    register_checkpoints(registry)


def answers(directory: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, greedy tokens, and the hidden states of the model without a head."""
    causal, told = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    base = AutoModel.from_pretrained(directory)
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        logits = causal.eval()(PROMPT).logits
        text = causal.generate(PROMPT, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return logits, text, base.eval()(PROMPT).last_hidden_state


def emptied(directory: Path) -> int:
    """How many layers have no attention."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    return sum(isinstance(module, EmptyAttention) for module in model.modules())


def as_saved(directory: Path, registry: Registry) -> bool:
    return find_exporter("vllm", registry).as_saved(open_checkpoint(str(directory), registry, warnings.warn))


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_emptied_attentions_are_refilled_exactly(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(pico.config, EMPTIED, tokenizer, registry, tmp_path / "model")
    assert emptied(source) == 2
    exported = export(str(source), "vllm", tmp_path / "out", registry=registry)
    assert emptied(exported.path) == 0
    assert [as_saved(directory, registry) for directory in (source, exported.path)] == [False, True]
    for found, expected in zip(answers(exported.path), answers(source), strict=True):
        assert torch.equal(found, expected)


def test_biases_that_were_added_stay(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    biases = ["self_attn.o_proj", "mlp.down_proj"]
    source = save_free(Pico("llama", 2).config, EMPTIED, tokenizer, registry, tmp_path / "model", biases)
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    assert emptied(out) == 0
    for found, expected in zip(answers(out), answers(source), strict=True):
        assert torch.equal(found, expected)


def test_weights_that_stay_are_copied_shard_by_shard(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = Pico("llama", 2).config
    source = save_free(config, EMPTIED, tokenizer, registry, tmp_path / "model", max_shard_size="40KB")
    before = {file.read_bytes() for file in source.glob("*.safetensors")}
    assert len(before) > 1
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    files = sorted(out.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert {file.read_bytes() for file in files[:-1]} == before
    assert {file.read_bytes() for file in source.glob("*.safetensors")} == before
    index = json.loads((out / "model.safetensors.index.json").read_text())
    total = 0
    for file in files:
        tensors = load_file(file)
        assert tensors.keys() == {name for name, where in index["weight_map"].items() if where == file.name}
        total += sum(tensor.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_size"] == total
    assert torch.equal(answers(out)[0], answers(source)[0])


def test_devices_that_share_layers_get_a_group_each(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    layers = [Layer(0, 24), Layer(2, 40), Layer(4, 2)]
    source = save_free(Pico("llama", 4).config, layers, tokenizer, registry, tmp_path / "model")
    exported = export(str(source), "vllm:2", tmp_path / "out", registry=registry)
    sizes = json.loads((exported.path / "config.json").read_text())["per_layer_config"]["0"]
    assert (sizes["num_key_value_heads"], sizes["num_attention_heads"]) == (2, 2)
    assert "--tensor-parallel-size 2" in exported.commands[0]
    assert torch.equal(answers(exported.path)[0], answers(source)[0])


def test_checkpoints_of_older_versions_get_what_vllm_needs(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(Pico("llama", 2).config, NARROW, tokenizer, registry, tmp_path / "model")
    (source / "modeling_bonsai.py").write_text("raise AssertionError('of an older version')\n")
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (source / "config.json").write_text(json.dumps(config))
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    assert has_own_code(out)
    assert [as_saved(directory, registry) for directory in (source, out)] == [False, True]
    assert "AutoModel" in json.loads((out / "config.json").read_text())["auto_map"]
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_granites_logits_are_scaled_there_too(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = Pico("granite", 2, tied=True).config
    source = save_free(config, NARROW, tokenizer, registry, tmp_path / "model")
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    assert json.loads((out / "config.json").read_text())["logit_scale"] == 1 / config.logits_scaling
    assert [as_saved(directory, registry) for directory in (source, out)] == [False, True]
    assert torch.equal(answers(out)[0], answers(source)[0])


def test_stock_checkpoints_are_copied(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = saved(Pico("llama", 2), tokenizer, tmp_path / "model")
    exported = export(str(source), "vllm", tmp_path / "out", registry=registry)
    assert contents(exported.path) == contents(source)
    assert as_saved(source, registry)
    assert exported.commands == [f"vllm serve {exported.path}"]


def contents(directory: Path) -> dict[str, Any]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


LAYERS = [Layer(1, 24), Layer(2, 40), Layer(1, 41)]


@pytest.mark.parametrize(
    ("pico", "format", "message"),
    [
        (Pico("falcon", 1, tied=True), "vllm", "does not run the type falcon. Prune with --units layer"),
        (Pico("llama", 2), "vllm:2", r"cannot share layer 2 .*intermediate_size 41"),
        (Pico("llama", 4), "vllm:2", r"cannot share layer 0 .*num_attention_heads 1,"),
    ],
    ids=str,
)
def test_what_does_not_run_there_is_refused(
    pico: Pico, format: str, message: str, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(pico.config, LAYERS, tokenizer, registry, tmp_path / "model")
    with pytest.raises(BonsaiError, match=message):
        export(str(source), format, tmp_path / "out", registry=registry)
    assert not (tmp_path / "out").exists()


def test_falcons_width_is_fixed_there(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = saved(Pico("falcon", 1, tied=True), tokenizer, tmp_path / "model")
    with pytest.raises(BonsaiError, match="--units layer"):
        export(str(source), "vllm", tmp_path / "out", registry=registry)


def test_narrow_experts_are_refused(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """vLLM reads their width for the whole model, and computes with memory that nothing was written to."""
    source = save_free(Pico("qwen3_moe", 2).config, LAYERS, tokenizer, registry, tmp_path / "model")
    checkpoint, exporter = open_checkpoint(str(source), registry, warnings.warn), find_exporter("vllm", registry)
    for field, refused in (("num_experts", False), ("moe_intermediate_size", True)):
        fewer = {**checkpoint.layers[1], field: checkpoint.layers[1][field] - 1}
        other = replace(checkpoint, layers=(checkpoint.layers[0], fewer, checkpoint.layers[2]))
        assert ("--shapes uniform" in str(exporter.refusal(other))) == refused


@pytest.mark.parametrize("pico", [Pico("llama", 2), Pico("qwen2", 2)], ids=str)
def test_qwen2_with_fewer_heads_runs_in_the_backend(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """vLLM's own takes hidden size / heads for the size of a head."""
    source = saved(pico, tokenizer, tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    dense = export(str(source), "vllm", tmp_path / "dense", registry=registry)
    config["hidden_size"] //= 2
    found = backend(config)
    assert backend(json.loads((dense.path / "config.json").read_text())) == "auto"
    assert found == ("transformers" if pico.family == "qwen2" else "auto")


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("pico", [Pico("llama", groups) for groups in (4, 2, 1)], ids=str)
def test_what_keeps_to_the_shapes_is_not_refused(pico: Pico, devices: int, registry: Registry) -> None:
    family = family_of(registry, pico)
    exporter = find_exporter(f"vllm:{devices}", registry)
    shapes = exporter.shapes(pico.config, family)
    assert family.attention is not None
    step, width = shapes.round_to["attention"], shapes.round_to["mlp"]
    for groups in range(max(step, shapes.min_units["attention"]), pico.num_key_value_heads + 1, step):
        sizes = {**family.attention.sizes(pico.config, groups), "intermediate_size": 3 * width}
        checkpoint = Checkpoint(Path(), pico.config, "llama", family, (sizes,), stock=True)
        assert exporter.refusal(checkpoint) is None
