"""Budgets of other things than a share of parameters: selection counts each exactly, and every run meets its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MIXTURES, Pico, family_of, saved
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, run
from bonsai_core.config import BUDGETS
from bonsai_core.engine.budget import Counted
from bonsai_core.model.forward.latency import cached_per_token
from bonsai_core.model.recognition.laws import num_params
from bonsai_core.model.subject import Subject
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import UnreachableError, select
from bonsai_core.units import KINDS_OF_SITE, Price, Site, UnitTable

HEADER = 0.1
"""Of the bytes of a pico checkpoint, at most, are headers."""


def settings(base: RunConfig, out: Path, **changes: Any) -> RunConfig:
    values = {name: value for name, value in base.model_dump(mode="json").items() if name not in BUDGETS}
    values |= {"latency": False, "out": str(out), "prior_samples": 8} | changes
    return RunConfig.from_mapping(values, "the test")


def pruned(base: RunConfig, out: Path, registry: Registry, **changes: Any) -> dict[str, Any]:
    return dict(run(settings(base, out, **changes), registry=registry).report)


# What a budget counts


@pytest.mark.parametrize("pico", [Pico("llama", 2), *MIXTURES], ids=str)
@pytest.mark.parametrize("units", [("attention", "mlp", "experts", "layer"), ("query", "mlp", "expert_width", "layer")])
def test_prices_are_what_slicing_takes_away(pico: Pico, units: Any, registry: Registry) -> None:
    """Parameters, numbers in the cache and parameters in use, counted in the sliced model."""
    if pico.num_key_value_heads == 4 and "query" in units:
        units = ("mlp", "expert_width", "layer")
    rng = np.random.default_rng(0)
    for whole_layer in (False, True):
        subject = Subject(pico.build(), family_of(registry, pico), units=units)
        table = subject.table
        counted = Counted(subject, 4 * table.total_params, adds_bias=False)
        keep_U = table.keep_all()
        for site in table:
            least = max(1, site.minimum)
            multiple = KINDS_OF_SITE[site.kind].multiple
            count = rng.integers(0, site.num_units - least + 1) // multiple * multiple
            leaving = rng.permutation(site.num_units)[:count]
            keep_U[site.first + leaving] = False
            if whole_layer and site.layer == 1:
                keep_U[site.units] = False
        priced = {name: table.priced(*getattr(counted, name)()) for name in ("params", "kv", "active")}
        subject.slice(keep_U)
        left = {name: prices.decoder_params - prices.removed_params(keep_U) for name, prices in priced.items()}
        assert left["params"] == num_params(subject.model)
        assert left["kv"] == sum(cached_per_token(subject.model))
        if "experts" not in units or not any(site.in_mixture for site in table):
            assert left["active"] == num_params(subject.model) - subject.idle_params(keep_U)


@pytest.mark.parametrize("pico", MIXTURES, ids=str)
def test_active_parameters_are_those_of_as_many_experts_as_a_token_is_sent_to(pico: Pico, registry: Registry) -> None:
    subject = Subject(pico.build(), family_of(registry, pico))
    prices, whole = Counted(subject, 0, adds_bias=False).active()
    config = subject.model.config
    experts = [module for name, module in subject.model.named_modules() if name.endswith("mlp.experts")]
    idle = sum(
        parameter.numel() // len(parameter) * (len(parameter) - config.num_experts_per_tok)
        for module in experts
        for parameter in module.parameters()
    )
    assert whole == num_params(subject.model) - idle
    table = subject.table.priced(prices, whole)
    for site in table:
        if site.in_mixture:
            assert site.cost(site.minimum) == site.cost(site.num_units)


def staircase() -> UnitTable:
    """Two sites; the cost of the second falls only at multiples of 4."""
    first = Site("layers.0.mlp", 0, "mlp", 0, 8, 1, 1)
    second = Site("layers.1.mlp", 1, "mlp", 8, 12, 1, 1)
    steps = np.array([0, *np.repeat([30, 60, 90], 4)])
    return UnitTable((first, second), 20, 20).priced([Price(0), steps], 100)


def test_units_that_free_nothing_leave_with_those_that_do_or_not_at_all() -> None:
    table = staircase()
    importance_U = np.arange(20.0)
    for rank in ("density", "importance"):
        problem = SelectionProblem(table, table.keep_all(), importance_U, importance_U, 0.3, Rules(rank=rank))
        keep_U = select(problem)
        assert keep_U[:8].all()
        assert keep_U[8:].sum() == 8
        assert table.removed_params(keep_U) == 30
    problem = SelectionProblem(table, table.keep_all(), importance_U, importance_U, 0.7, Rules())
    with pytest.raises(UnreachableError) as caught:
        select(problem)
    assert table.removed_params(caught.value.least_U) == 60


def test_kinds_that_free_nothing_are_out_of_the_rules() -> None:
    table = staircase()
    assert Rules(units=("mlp", "attention")).paying(table).units == ("mlp", "attention")
    free = table.priced([Price(0), Price(0)], 100)
    assert Rules(units=("mlp", "attention")).paying(free).units == ("attention",)


@pytest.mark.parametrize("whole", [3, 10**9 + 7, 2 * 10**11 + 3, 10**13 + 1])
def test_a_fraction_comes_to_the_amount_it_was_made_of(whole: int) -> None:
    table = staircase().priced([Price(0), Price(0)], whole)
    for leaving in {1, whole // 3, whole // 2, whole - 1}:
        assert table.amount(leaving / whole) == leaving


# Runs meet their budgets

MET: list[tuple[str, dict[str, Any]]] = [
    ("target_params", {"target_params": "0.7x"}),
    ("target_params", {"target_params": 40_000, "round_to": 8}),
    ("target_params", {"target_params": "0.8x", "shapes": "uniform"}),
    ("target_params", {"target_params": "0.75x", "units": "layer", "estimator": "none", "prior": "block-influence"}),
    ("target_params", {"target_params": "0.8x", "units": "query,mlp"}),
    ("target_params", {"target_params": "0.7x", "compensator": "bias"}),
    ("target_bytes", {"target_bytes": "0.75x", "compensator": "bias", "units": "attention,mlp,layer"}),
    ("target_bytes", {"target_bytes": "180KB"}),
    ("target_bytes", {"target_bytes": "0.8x", "shapes": "uniform", "round_to": 4}),
    ("target_kv", {"target_kv": "0.5x"}),
    ("target_kv", {"target_kv": "0.5x", "shapes": "uniform"}),
    ("target_kv", {"target_kv": "200B", "units": "attention,mlp,sublayer,layer", "submodels": 8}),
    ("target_kv", {"target_kv": "0.67x", "units": "query,mlp,layer", "submodels": 8, "search": 1, "search_samples": 4}),
    ("target_kv", {"target_kv": "0.5x", "estimator": "none"}),
    ("target_kv", {"target_kv": "0.5x", "sampler": "adaptive", "estimator": "bayes", "submodels": 12}),
    ("target_kv", {"target_kv": "0.5x", "sampler": "global", "search": 1, "search_samples": 4}),
    ("target_kv", {"target_kv": "0.3x", "min_units": 0, "resample": "fresh"}),
    ("target_active_params", {"target_active_params": "0.8x"}),
]


@pytest.mark.parametrize(("target", "changes"), MET, ids=lambda value: str(value))
def test_a_run_meets_its_budget(
    small_run: RunConfig, registry: Registry, tmp_path: Path, target: str, changes: dict[str, Any]
) -> None:
    report = pruned(small_run, tmp_path / "run", registry, **changes)
    budget = report["budget"]
    assert budget["of"] == target
    assert budget["measured"] <= budget["predicted"] <= budget["target"] < budget["dense"]
    slack = HEADER * budget["dense"] if target == "target_bytes" else 0
    assert budget["measured"] >= budget["predicted"] - slack
    if str(changes[target]).endswith("x"):
        assert budget["target"] == int(float(changes[target][:-1]) * budget["dense"] + 1e-6)
    if target == "target_kv" and "layer" not in changes.get("units", ""):
        assert all(layer["mlp"]["kept"] == layer["mlp"]["dense"] for layer in report["layers"])


@pytest.mark.parametrize(
    ("pico", "changes"),
    [
        (Pico("mixtral", 2), {"target_active_params": "0.95x"}),
        (Pico("mixtral", 2), {"target_active_params": "66K", "units": "attention,expert_width"}),
        (Pico("qwen2_moe", 2), {"target_active_params": "0.8x", "units": "attention,mlp,expert_width"}),
        (Pico("qwen3_moe", 2), {"target_active_params": "0.85x", "units": "attention,experts,layer"}),
        (Pico("qwen3_moe", 2), {"target_params": "0.8x", "units": "attention,experts"}),
        (Pico("qwen3_moe", 2), {"target_kv": "0.5x"}),
    ],
    ids=str,
)
def test_a_run_of_a_mixture_meets_its_budget(
    small_run: RunConfig,
    registry: Registry,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    pico: Pico,
    changes: dict[str, Any],
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    report = pruned(small_run, tmp_path / "run", registry, model=str(parent), **changes)
    budget = report["budget"]
    assert budget["measured"] == budget["predicted"] <= budget["target"]
    if "target_active_params" in changes:
        for layer in report["layers"]:
            if layer.get("experts", {}).get("kept"):
                assert layer["experts"]["kept"] == layer["experts"]["dense"]
