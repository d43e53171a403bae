"""Channels of experts as units: what a unit is, what priors see of it, and whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MIXTURES, Pico, family_of, measured, saved
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, RunConfig, load_model, run
from bonsai_core.model.subject import Subject
from bonsai_core.units import UnitKind

UNITS: tuple[UnitKind, ...] = ("expert_width",)


def subject_of(registry: Registry, pico: Pico) -> Subject:
    return Subject(pico.build(), family_of(registry, pico), units=UNITS)


def ranked(experts: Any, number: int) -> torch.Tensor:
    """An expert's channels, the strongest first."""
    gate, up = experts.gate_up_proj[number].chunk(2)
    strength = gate.norm(dim=1) * up.norm(dim=1) * experts.down_proj[number].norm(dim=0)
    ranks: torch.Tensor = strength.argsort(descending=True)
    return ranks


def widths_of(subject: Subject) -> list[Any]:
    return [site for site in subject.table if site.kind == "expert_width"]


@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_a_unit_is_a_channel_of_every_expert_by_strength(registry: Registry, pico: Pico) -> None:
    subject, dense = subject_of(registry, pico), pico.build()
    site = widths_of(subject)[-1]
    keep_U = subject.table.keep_all()
    keep_U[site.units.stop - 8 : site.units.stop] = False
    subject.slice(keep_U)
    before, after = (model.model.layers[site.layer].mlp.experts for model in (dense, subject.model))
    for number in range(before.num_experts):
        gate, up = before.gate_up_proj[number].chunk(2)
        best = ranked(before, number)[: site.num_units - 8]
        assert torch.equal(after.gate_up_proj[number], torch.cat([gate[best], up[best]]))
        assert torch.equal(after.down_proj[number], before.down_proj[number][:, best])


@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_slicing_twice_equals_slicing_once(registry: Registry, pico: Pico) -> None:
    twice, once = subject_of(registry, pico), subject_of(registry, pico)
    few_U, fewer_U = twice.table.keep_all(), twice.table.keep_all()
    rng = np.random.default_rng(0)
    for site in widths_of(twice):
        order = site.first + rng.permutation(site.num_units)
        few_U[order[:4]] = fewer_U[order[:8]] = False
    twice.slice(few_U)
    twice.slice(fewer_U)
    once.slice(fewer_U)
    found = twice.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in once.model.state_dict().items())


@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_priors_see_the_channels_values_times_the_experts_weights(registry: Registry, pico: Pico) -> None:
    subject = subject_of(registry, pico)
    site = widths_of(subject)[-1]
    experts: Any
    experts, use = subject.reads(site)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, experts.hidden_dim, generator=rng)
    chosen = torch.stack([torch.randperm(experts.num_experts, generator=rng)[:2] for _ in range(5)])
    weights = torch.rand(5, 2, generator=rng)
    with torch.inference_mode():
        found = use((hidden, chosen, weights))
        for token in range(5):
            squares = torch.zeros(site.num_units)
            for expert, weight in zip(chosen[token], weights[token], strict=True):
                gate, up = (experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
                value = weight * torch.nn.functional.silu(gate) * up
                squares += value[ranked(experts, int(expert))].square()
            torch.testing.assert_close(found[token], squares.sqrt())


@pytest.mark.parametrize("shapes", ["free", "uniform"])
@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_a_run_makes_all_experts_of_a_layer_narrower(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    pico: Pico,
    shapes: str,
    tmp_path: Path,
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    settings = {"model": str(parent), "out": tmp_path / "run", "shapes": shapes, "latency": False}
    settings |= {"units": UNITS, "prior_samples": 4, "sparsity": 0.2}
    result = run(RunConfig.model_validate({**small_run.model_dump(), **settings}), registry=registry)
    loaded = load_model(str(result.model_path))
    widths = [layer.mlp.experts.intermediate_dim for layer in loaded.model.layers if hasattr(layer.mlp, "experts")]
    dense = AutoModelForCausalLM.from_pretrained(parent).model.layers[0].mlp.experts
    assert all(width % 8 == 0 for width in widths)
    assert min(widths) < dense.intermediate_dim
    assert {layer.mlp.experts.num_experts for layer in loaded.model.layers if hasattr(layer.mlp, "experts")} == {
        dense.num_experts
    }
    found = measured(small_run, result.directory)
    assert found["perplexity"] == pytest.approx(result.report["perplexity"]["pruned"], rel=1e-4)
    stock = json.loads((result.model_path / "config.json").read_text())["model_type"] == pico.family
    assert stock == (shapes == "uniform")


def test_experts_leave_or_get_narrower_not_both(small_run: RunConfig) -> None:
    with pytest.raises(BonsaiError, match="experts or expert_width, not both"):
        RunConfig.from_mapping({**small_run.model_dump(), "units": "experts,expert_width"}, "the test")


def test_without_experts_there_is_nothing_to_make_narrower(
    registry: Registry, small_run: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(BonsaiError, match="expert_width"):
        run(small_run.model_copy(update={"units": UNITS, "out": tmp_path / "run"}), registry=registry)
