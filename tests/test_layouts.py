"""The same weights, laid out as other families have them, are pruned alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEADS, Pico
from layouts import decoder_parameters, laid_out_as
from transformers import Qwen2Tokenizer

from bonsai_core import Registry, RunConfig, run
from bonsai_core.model.recognition.laws import logits


@pytest.mark.parametrize("groups", [2, HEADS])
@pytest.mark.parametrize(
    ("model_type", "units"),
    [
        ("mistral", ("attention", "mlp")),
        ("phi3", ("attention", "mlp")),
        ("qwen2", ("mlp",)),  # its biases, zero here, have a price where heads go
    ],
)
def test_other_layouts_are_pruned_alike(
    model_type: str,
    units: tuple[str, ...],
    groups: int,
    small_run: RunConfig,
    pico_directory: Path,
    tmp_path: Path,
) -> None:
    # transformers reads the files of a Qwen2 model with this class, which splits text otherwise than others do.
    tokenizer = Qwen2Tokenizer.from_pretrained(pico_directory)
    llama = Pico("llama", groups).build()
    found = []
    for name, model in (("llama", llama), (model_type, laid_out_as(model_type, llama))):
        torch.testing.assert_close(logits(model), logits(llama), rtol=0, atol=1e-4)
        parent = tmp_path / f"parent-{name}"
        model.save_pretrained(parent)
        tokenizer.save_pretrained(parent)
        # The same number of parameters, where zero biases are counted too.
        share = decoder_parameters(llama) / decoder_parameters(model)
        budget = {name: getattr(small_run, name) * share for name in ("sparsity", "round_fraction")}
        config = {**small_run.model_dump(), **budget, "model": str(parent), "units": units, "out": tmp_path / name}
        result = run(RunConfig(**{**config, "prior_samples": 4, "latency": False}), registry=Registry())
        kept = json.loads((tmp_path / name / "model" / "bonsai.json").read_text())["kept_units"]
        round_one = tmp_path / name / "round-001"
        with np.load(round_one / "prior.npz") as prior, np.load(round_one / "selection.npz") as selection:
            found.append((prior["prior_U"], selection["importance_U"], kept, result.report["perplexity"]["pruned"]))
    (prior_U, importance_U, kept, perplexity), (other_U, others_U, other_kept, other_perplexity) = found
    np.testing.assert_allclose(other_U, prior_U, rtol=1e-3)
    assert np.isfinite(importance_U).any()
    np.testing.assert_allclose(others_U, importance_U, rtol=0, atol=1e-3 * float(np.nanmax(np.abs(importance_U))))
    assert other_kept == kept
    assert other_perplexity == pytest.approx(perplexity, rel=1e-4)
