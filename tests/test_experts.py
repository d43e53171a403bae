"""Experts as units: what priors see of them, what routers do without some, and checkpoints of stock classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MIXTURES, Pico, family_of, saved
from numpy.typing import NDArray
from test_laws import quiet, scores_of, windows
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, Site, load_model, run
from bonsai_core.config import PluginChoice
from bonsai_core.model.sites.table import unit_table
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.subject import Subject

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
OF_EACH = pytest.mark.parametrize("pico", MIXTURES, ids=str)


def subject_of(registry: Registry, pico: Pico) -> Subject:
    return Subject(pico.build(), family_of(registry, pico))


def experts_of(subject: Subject) -> list[Site]:
    return [site for site in subject.table if site.kind == "experts"]


def scores(registry: Registry, subject: Subject, name: str, keep_U: NDArray[np.bool_]) -> NDArray[np.float64]:
    prior: Any = registry.create("prior", PluginChoice(name=name))
    return scores_of(subject, quiet(), prior, keep_U)


@contextmanager
def routed(experts: nn.Module) -> Iterator[list[tuple[Tensor, ...]]]:
    """What the experts of a layer are called with: hidden states, chosen experts, their weights."""
    calls: list[tuple[Tensor, ...]] = []
    handle = experts.register_forward_pre_hook(lambda module, args: calls.append(args))
    yield calls
    handle.remove()


def by_hand(model: Any, site: Site) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """REAP's score and the share of tokens of every expert, token by token in float64."""
    experts = model.model.layers[site.layer].mlp.experts
    with torch.inference_mode(), routed(experts) as calls:
        model(torch.from_numpy(windows()))
    ((hidden, chosen, weights),) = calls
    found: list[list[float]] = [[] for _ in range(experts.num_experts)]
    for state, numbers, shares in zip(hidden.double(), chosen.tolist(), weights.double(), strict=True):
        for number, share in zip(numbers, shares, strict=True):
            gate, up = (experts.gate_up_proj[number].detach().double() @ state).chunk(2)
            output = experts.down_proj[number].detach().double() @ (nn.functional.silu(gate) * up)
            found[number].append(float(share * output.norm()))
    means = [float(np.mean(values)) if values else 0.0 for values in found]
    return np.array(means), np.array([len(values) / len(hidden) for values in found])


@IMPLEMENTATIONS
@OF_EACH
def test_reap_is_the_mean_size_of_what_an_expert_adds_to_its_tokens(
    registry: Registry, pico: Pico, implementation: str
) -> None:
    subject = subject_of(registry, pico)
    subject.model.set_experts_implementation(implementation)
    expected = {site: by_hand(subject.model, site) for site in experts_of(subject)}
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    reap_U, frequency_U = (scores(registry, subject, name, subject.table.keep_all()) for name in ("reap", "frequency"))
    for site, (mean, share) in expected.items():
        np.testing.assert_allclose(reap_U[site.units], mean, rtol=1e-4)
        np.testing.assert_allclose(frequency_U[site.units], share, rtol=1e-6)
    assert all(torch.equal(weight, before[name]) for name, weight in subject.model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in subject.model.modules())


@pytest.mark.parametrize("name", ["reap", "frequency", "obs", "wanda", "fluctuation", "activation"])
@OF_EACH
def test_permuting_experts_permutes_their_scores(registry: Registry, pico: Pico, name: str) -> None:
    subject, permuted = subject_of(registry, pico), subject_of(registry, pico)
    order = {}
    for site in experts_of(subject):
        order[site] = np.random.default_rng(site.layer).permutation(site.num_units)
        mixture = permuted.model.model.layers[site.layer].mlp
        for weight in (mixture.gate.weight, mixture.experts.gate_up_proj, mixture.experts.down_proj):
            weight.data = weight.data[order[site]].clone()
    keep_U = subject.table.keep_all()
    score_U, permuted_U = (scores(registry, one, name, keep_U) for one in (subject, permuted))
    for site, its_order in order.items():
        np.testing.assert_allclose(permuted_U[site.units], score_U[site.units][its_order], rtol=1e-4)


@pytest.mark.parametrize("name", ["reap", "obs"])
@OF_EACH
def test_experts_that_are_stored_elsewhere_get_the_same_scores(
    registry: Registry, tokenizer: PreTrainedTokenizerFast, pico: Pico, name: str, tmp_path: Path
) -> None:
    parent, family = saved(pico, tokenizer, tmp_path, max_shard_size="60KB"), family_of(registry, pico)
    usual, table = Subject(pico.build(), family), unit_table(pico.build(), family)
    model = load_model(str(parent), device="cpu", device_map="auto", max_memory="cpu=20KB")
    frozen = Subject(model, family, table=table, storage=Elsewhere(model, family, WeightFiles(parent, model)))
    keep_U = table.keep_all()
    for site in experts_of(usual):
        keep_U[site.first + 1] = False  # which stays there, masked
    found_U, expected_U = (scores(registry, subject, name, keep_U) for subject in (frozen, usual))
    np.testing.assert_allclose(found_U, expected_U, rtol=1e-4)


@OF_EACH
def test_routers_weight_the_experts_that_stay_as_if_there_had_never_been_others(registry: Registry, pico: Pico) -> None:
    subject = subject_of(registry, pico)
    keep_U = subject.table.keep_all()
    site = experts_of(subject)[-1]
    keep_U[site.first + 1] = False
    mixture = subject.model.model.layers[site.layer].mlp
    with torch.inference_mode(), subject.masked(keep_U), routed(mixture.experts) as calls:
        subject.model(torch.from_numpy(windows()))
    ((hidden, chosen, weights),) = calls
    logits = hidden @ mixture.gate.weight.detach().T
    logits[:, 1] = -torch.inf
    expected = logits.softmax(dim=-1).gather(1, chosen)
    assert not (chosen == 1).any()
    if pico.family == "mixtral" or subject.model.config.norm_topk_prob:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(len(weights)))
        expected = expected / expected.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("units", [("experts",), ("attention", "experts")], ids=["experts", "attention"])
@OF_EACH
def test_as_many_experts_in_every_layer_load_in_the_stock_class(
    registry: Registry,
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    pico: Pico,
    units: tuple[str, ...],
    tmp_path: Path,
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    changes = {"model": str(parent), "out": tmp_path / "run", "units": units, "shapes": "uniform", "latency": False}
    changes |= {"prior": "reap", "prior_samples": 4, "sparsity": 0.15, "round_fraction": 0.15}
    result = run(RunConfig.model_validate({**small_run.model_dump(), **changes}), registry=registry)
    written = json.loads((result.model_path / "config.json").read_text())
    assert (written["model_type"], "auto_map" in written) == (pico.family, False)
    loaded = AutoModelForCausalLM.from_pretrained(result.model_path)
    counts = {layer.mlp.experts.num_experts for layer in loaded.model.layers if hasattr(layer.mlp, "experts")}
    dense = max(site.num_units for site in experts_of(subject_of(registry, pico)))
    assert len(counts) == 1
    assert counts.pop() < dense
    freed = result.report["parameters"]["dense"] - result.report["parameters"]["pruned"]
    assert sum(p.numel() for p in loaded.parameters()) == result.report["parameters"]["dense"] - freed


@OF_EACH
def test_the_recipe_for_mixtures_removes_experts_alone(
    registry: Registry, small_run: RunConfig, tokenizer: PreTrainedTokenizerFast, pico: Pico, tmp_path: Path
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    changes = {"model": str(parent), "out": str(tmp_path / "run"), "prior_samples": 4, "sparsity": 0.15}
    values = {**small_run.model_dump(mode="json"), **registry.recipe("moe"), **changes, "latency": False}
    report = run(RunConfig.from_mapping(values, "the test"), registry=registry).report
    assert report["sparsity"]["decoder"] >= 0.15
    gone = {kind for layer in report["layers"] for kind, count in layer.items() if count["kept"] < count["dense"]}
    assert gone == {"experts"}
