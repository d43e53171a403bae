"""mlx-lm computes what transformers does. Last run 2026-11-28: mlx-lm 0.32.2 with mlx 0.32.4 on a CPU; all passed.

Skipped unless BONSAI_MLX_PYTHON names the interpreter of an environment with mlx and mlx-lm:

    python -m venv FOLDER && FOLDER/bin/pip install "mlx[cpu]" mlx-lm
    BONSAI_MLX_PYTHON=FOLDER/bin/python pytest tests/runtimes/test_mlx.py
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import older_parents
import pytest
from conftest import OPTIONS, Pico, saved
from free_models import THREE_LAYERS, Layer, save_free, save_stock
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, export
from bonsai_core.runtimes.export import Exported

PYTHON = os.environ.get("BONSAI_MLX_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="BONSAI_MLX_PYTHON names no interpreter with mlx-lm")

FREE = [
    Pico("llama", 2),
    Pico("llama", 2, attention_bias=True),
    Pico("mistral", 2),
    Pico("qwen2", 2, tied=True),
    Pico("qwen3", 2),
    Pico("gemma", 2, tied=True),
    Pico("gemma2", 2, tied=True),
    Pico("gemma3_text", 2, tied=True),
    Pico("granite", 2, tied=True),
    Pico("phi3", 2),
    Pico("smollm3", 2, tied=True),
]
STOCK = [
    *FREE,
    Pico("mixtral", 2),
    Pico("qwen3_moe", 2),
    Pico("olmo2", 4),
    Pico("olmoe", 4),
    Pico("phi", 4),
    Pico("stablelm", 2),
]
OTHER_SIZES = {"qwen2": Pico("qwen2", 2), "mixtral": Pico("mixtral", 2), "phi3": Pico("phi3", 2)}
# Emptied attention elsewhere than in the first layer, and a layer without anything.
EMPTIED = (Layer(1, 20), Layer(0, 0), Layer(0, 7))


@pytest.fixture(autouse=True)
def wide_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2 has windows, which mlx-lm has not; as wide as the text is long, they make no difference."""
    monkeypatch.setitem(OPTIONS["gemma2"], "sliding_window", 256)


def verified(directory: Path, out: Path, registry: Registry) -> Exported:
    done = export(str(directory), "mlx", out, verify=True, python=PYTHON, registry=registry, warn=lambda text: None)
    assert done.verification is not None, done.unverified
    assert done.verification.same_tokens == done.verification.new_tokens
    return done


@pytest.mark.parametrize("pico", STOCK, ids=str)
def test_dense_models(pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    verified(saved(pico, tokenizer, tmp_path / "model"), tmp_path / "out", registry)


@pytest.mark.parametrize("pico", FREE, ids=str)
def test_layers_of_different_widths(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = save_free(pico.config, THREE_LAYERS, tokenizer, registry, tmp_path / "model")
    verified(directory, tmp_path / "out", registry)


@pytest.mark.parametrize("added", [(), ("self_attn.o_proj", "mlp.down_proj")], ids=["", "added biases"])
def test_emptied_layers_and_the_command_that_is_told(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, added: tuple[str, ...]
) -> None:
    directory = save_free(Pico("llama", 2).config, EMPTIED, tokenizer, registry, tmp_path / "model", added)
    (command,) = verified(directory, tmp_path / "out", registry).commands
    words = [*shlex.split(command), "--max-tokens", "4"]
    subprocess.run([Path(PYTHON).with_name(words[0]), *words[1:]], check=True)


@pytest.mark.parametrize("pico", OTHER_SIZES.values(), ids=str)
def test_stock_models_with_fewer_heads(
    pico: Pico, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    fewer = {"num_attention_heads": 2, "num_key_value_heads": 1}
    verified(save_stock(pico.config, tokenizer, tmp_path / "model", **fewer), tmp_path / "out", registry)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "phi3", "smollm3", "qwen3-moe"])
def test_other_bases_of_positions_and_their_scaling(registry: Registry, tmp_path: Path, name: str) -> None:
    older_parents.make(tmp_path / "models")
    verified(tmp_path / "models" / name, tmp_path / "out", registry)
