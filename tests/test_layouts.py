"""The same weights, laid out as other families have them, are pruned alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Pico
from layouts import laid_out_as
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, run
from bonsai_core.model.verify import logits


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
