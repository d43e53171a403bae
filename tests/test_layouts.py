"""The same weights, laid out as other families have them, are pruned alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pico
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, run
from bonsai_core.testing.family import logits

SAME = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rms_norm_eps",
]


def laid_out_as(model_type: str, llama: Any) -> Any:
    """A model of another type that computes the same."""
    values = {name: getattr(llama.config, name) for name in SAME}
    other = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**values, pad_token_id=0, sliding_window=None))
    weights: dict[str, Tensor] = dict(llama.state_dict())
    if model_type == "phi3":
        for index in range(llama.config.num_hidden_layers):
            for module, parts, fused in (
                ("self_attn", ("q_proj", "k_proj", "v_proj"), "qkv_proj"),
                ("mlp", ("gate_proj", "up_proj"), "gate_up_proj"),
            ):
                names = [f"model.layers.{index}.{module}.{part}.weight" for part in parts]
                weights[f"model.layers.{index}.{module}.{fused}.weight"] = torch.cat([weights.pop(n) for n in names])
    other.load_state_dict(weights)
    return other.eval()


@pytest.mark.parametrize("model_type", ["mistral", "phi3"])
def test_other_layouts_are_pruned_alike(
    model_type: str, registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    llama = Pico("llama", 2).build()
    found = []
    for name, model in (("llama", llama), (model_type, laid_out_as(model_type, llama))):
        torch.testing.assert_close(logits(model), logits(llama), rtol=0, atol=1e-4)
        parent = tmp_path / f"parent-{name}"
        model.save_pretrained(parent)
        tokenizer.save_pretrained(parent)
        settings = {"model": str(parent), "out": str(tmp_path / name), "prior_samples": 4, "latency": False}
        result = run(RunConfig(**{**small_run.model_dump(), **settings}), registry=registry)
        kept = json.loads((tmp_path / name / "model" / "bonsai.json").read_text())["kept_units"]
        with np.load(tmp_path / name / "round-001" / "prior.npz") as arrays:
            found.append((arrays["prior_U"], kept, result.report["perplexity"]["pruned"]))
    (prior_U, kept, perplexity), (other_U, other_kept, other_perplexity) = found
    np.testing.assert_allclose(other_U, prior_U, rtol=1e-3)
    assert other_kept == kept
    assert other_perplexity == pytest.approx(perplexity, rel=1e-4)
