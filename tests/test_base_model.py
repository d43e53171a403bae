"""Free-shape checkpoints have a model without a head too, as stock ones do: what AutoModel makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Pico
from free_models import Layer, save_free
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import Registry, load_model, register_checkpoints
from bonsai_core.model.loading.saved import has_own_code

PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5]])
# GPT-NeoX and Falcon call it otherwise than `model`, and OPT's layers are deeper in it.
PICOS = [Pico("llama", 2, tied=True), Pico("gemma2", 2, tied=True), Pico("phi3", 2)]
PICOS += [Pico("opt", 4, tied=True), Pico("gpt_neox", 4), Pico("falcon", 1, tied=True)]
LAYERS = [Layer(1, 24), Layer(0, 40), Layer(1, 0)]

WITHOUT_BONSAI = """
import sys
sys.modules["bonsai_core"] = None
from pathlib import Path
import torch
from safetensors.torch import save_file
from transformers import AutoModel
torch.set_num_threads(1)
for directory in sys.argv[1:]:
    model, told = AutoModel.from_pretrained(directory, trust_remote_code=True, output_loading_info=True)
    assert not told["missing_keys"] and not told["mismatched_keys"], told
    with torch.no_grad():
        save_file({{"hidden": model.eval()(torch.tensor({prompt})).last_hidden_state}}, Path(directory) / "found")
"""


@pytest.fixture(scope="module")
def saved(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> dict[Pico, Path]:
    register_checkpoints(registry)
    root = tmp_path_factory.mktemp("free")
    return {pico: save_free(pico.config, LAYERS, tokenizer, registry, root / str(pico)) for pico in PICOS}


@pytest.mark.parametrize("pico", PICOS, ids=str)
def test_it_is_the_causal_models_own(pico: Pico, saved: dict[Pico, Path]) -> None:
    base, told = AutoModel.from_pretrained(saved[pico], output_loading_info=True)
    assert not told["missing_keys"]
    assert type(base).__name__.startswith("Bonsai")
    causal = AutoModelForCausalLM.from_pretrained(saved[pico]).eval()
    with torch.no_grad():
        expected = causal.base_model(PROMPT).last_hidden_state
        assert torch.equal(base.eval()(PROMPT).last_hidden_state, expected)


def test_it_loads_without_bonsai(saved: dict[Pico, Path], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_BONSAI.format(prompt=PROMPT.tolist()), *map(str, saved.values())],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for pico, directory in saved.items():
        with torch.no_grad():
            expected = AutoModel.from_pretrained(directory).eval()(PROMPT).last_hidden_state
        assert torch.equal(load_file(directory / "found")["hidden"], expected), pico


def test_the_attention_can_be_chosen(saved: dict[Pico, Path]) -> None:
    base = AutoModel.from_pretrained(saved[PICOS[0]], attn_implementation="eager")
    assert base.layers[0].self_attn.config._attn_implementation == "eager"
    assert type(base)._can_set_attn_implementation()


def test_it_is_saved_as_a_model_that_loads(saved: dict[Pico, Path], tmp_path: Path) -> None:
    base = AutoModel.from_pretrained(saved[PICOS[-1]])
    base.save_pretrained(tmp_path / "base")
    again = AutoModel.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        assert torch.equal(again(PROMPT).last_hidden_state, base(PROMPT).last_hidden_state)
    for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
        assert json.loads((tmp_path / "base" / "config.json").read_text())["auto_map"][name]
    assert has_own_code(tmp_path / "base")


def test_checkpoints_of_older_versions_load_with_bonsai(saved: dict[Pico, Path], tmp_path: Path) -> None:
    """Their modeling file has no base model; the registered classes override it."""
    directory = tmp_path / "old"
    free = AutoModelForCausalLM.from_pretrained(saved[PICOS[0]])
    free.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "modeling_bonsai.py").write_text("raise AssertionError('it is not needed')\n")
    assert not has_own_code(directory)
    with torch.no_grad():
        assert torch.equal(load_model(str(directory))(PROMPT).logits, free(PROMPT).logits)
        base = AutoModel.from_pretrained(directory)
        assert torch.equal(base(PROMPT).last_hidden_state, free.base_model(PROMPT).last_hidden_state)
    assert AutoConfig.from_pretrained(directory).model_type == "bonsai_llama"
