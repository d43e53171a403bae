"""What is exported for vLLM is the model; tests/runtimes/test_vllm.py has vLLM itself look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pico, saved
from free_checkpoints import free_model, save_free
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import Registry, export, register_checkpoints
from bonsai_core.checkpoint import EmptyAttention
from bonsai_core.model.loading.saved import has_own_code

PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5]])
# Of every layer: KV groups and width. Two layers without attention, the first too.
EMPTIED = [(0, 24), (1, 40), (0, 0)]
PICOS = [
    Pico("llama", 2),
    Pico("llama", 2, attention_bias=True),
    Pico("qwen3", 2),
    Pico("gemma2", 2, tied=True),
    Pico("phi", 4),
    Pico("phi3", 2),
    Pico("gpt_neox", 4),
    Pico("opt", 4, tied=True),
    Pico("falcon", 2, attention_bias=True, option="new_decoder_architecture"),
    Pico("falcon", 1, tied=True),
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


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_emptied_attentions_are_refilled_exactly(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(free_model(pico, registry, EMPTIED), tokenizer, tmp_path / "model")
    assert emptied(source) == 2
    exported = export(str(source), "vllm", tmp_path / "out", registry=registry)
    assert emptied(exported.path) == 0
    for found, expected in zip(answers(exported.path), answers(source), strict=True):
        assert torch.equal(found, expected)


def test_weights_that_stay_are_copied_shard_by_shard(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = free_model(Pico("llama", 2), registry, EMPTIED)
    source = save_free(model, tokenizer, tmp_path / "model", max_shard_size="40KB")
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
        with safe_open(file, "pt") as opened:
            assert {*opened.keys()} == {name for name, where in index["weight_map"].items() if where == file.name}
            total += sum(opened.get_tensor(name).nbytes for name in opened.keys())
    assert index["metadata"]["total_size"] == total
    assert torch.equal(answers(out)[0], answers(source)[0])


def test_devices_that_share_layers_get_a_group_each(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(free_model(Pico("llama", 4), registry, [(0, 24), (2, 40), (4, 2)]), tokenizer, tmp_path / "model")
    exported = export(str(source), "vllm:2", tmp_path / "out", registry=registry)
    sizes = json.loads((exported.path / "config.json").read_text())["per_layer_config"]["0"]
    assert (sizes["num_key_value_heads"], sizes["num_attention_heads"]) == (2, 2)
    assert "--tensor-parallel-size 2" in exported.commands[0]
    assert torch.equal(answers(exported.path)[0], answers(source)[0])


def test_checkpoints_of_older_versions_get_what_vllm_needs(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = save_free(free_model(Pico("llama", 2), registry, [(1, 24), (2, 40), (1, 3)]), tokenizer, tmp_path / "model")
    (source / "modeling_bonsai.py").write_text("raise AssertionError('of an older version')\n")
    config = json.loads((source / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (source / "config.json").write_text(json.dumps(config))
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    assert has_own_code(out)
    assert "AutoModel" in json.loads((out / "config.json").read_text())["auto_map"]
    assert (out / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_stock_checkpoints_are_copied(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = saved(Pico("llama", 2), tokenizer, tmp_path / "model")
    exported = export(str(source), "vllm", tmp_path / "out", registry=registry)
    assert contents(exported.path) == contents(source)
    assert exported.commands == [f"vllm serve {exported.path}"]


def contents(directory: Path) -> dict[str, Any]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}
