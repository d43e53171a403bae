"""Budgets of other things than a share of parameters: selection counts each exactly, and every run meets its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MIXTURES, Listener, Photographer, Pico, StoppedError, Stopper, family_of, saved
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from bonsai_core import BonsaiError, Registry, RunConfig, dry_run, resume, run
from bonsai_core.cli.settings import settings as from_options
from bonsai_core.cli.tables import report_view
from bonsai_core.config import BUDGETS
from bonsai_core.engine import reached
from bonsai_core.engine.budget import Counted
from bonsai_core.engine.checkpoint import dense_beside
from bonsai_core.engine.job import Job
from bonsai_core.engine.plan import most_rounds
from bonsai_core.events import Event, Journaled, RunStarted, Warned
from bonsai_core.model.forward import layer_latency
from bonsai_core.model.forward.latency import TimedPass, cached_per_token
from bonsai_core.model.forward.layer_latency import PICOSECONDS, latency_prices, measure_layers
from bonsai_core.model.recognition.laws import num_params
from bonsai_core.model.subject import Subject
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.payloads import fault_of
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import UnreachableError, select
from bonsai_core.settings.quantities import BYTES, COUNT, TIME
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


# Time


class FakeClock:
    """A device on which a pass takes as long as its model has parameters, and something on top."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, real: float = 1.0) -> None:
        self.calls = 0
        self.real = real
        clock = self

        def of(self: TimedPass, model: Any) -> Any:
            def side() -> tuple[float]:
                clock.calls += 1
                whole = hasattr(model, "lm_head")
                params = sum(parameter.numel() for parameter in model.parameters())
                return ((params**clock.real if whole else params) * 1e-6 + 1e-3,)

            return side

        monkeypatch.setattr(TimedPass, "of", of)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_latency": "0.8x"},
        {"target_latency": "0.8x", "round_fraction": 1.0, "latency_of": "prefill"},
        {"target_latency": "45ms", "units": "attention,mlp,layer", "submodels": 8},
        {"target_latency": "0.8x", "shapes": "uniform", "round_to": 4},
    ],
    ids=str,
)
def test_a_budget_of_time_is_met(
    small_run: RunConfig,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    FakeClock(monkeypatch)
    budget = pruned(small_run, tmp_path / "run", registry, **changes)["budget"]
    assert budget["of"] == "target_latency"
    assert 0.85 * budget["target"] < budget["measured"] <= 1.05 * budget["target"]
    assert budget["predicted"] == pytest.approx(budget["measured"], rel=0.05)


def test_what_the_whole_model_takes_corrects_the_last_round(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole model gains less than its sites would by themselves."""
    FakeClock(monkeypatch, real=0.9)
    budget = pruned(small_run, tmp_path / "run", registry, target_latency="0.85x")["budget"]
    assert budget["measured"] == pytest.approx(budget["target"], rel=0.05)
    assert budget["predicted"] < 0.97 * budget["target"]


def test_one_dense_model_is_in_memory_at_a_time(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch, real=0.8)
    models: list[Any] = []

    def beside(job: Job) -> Any:
        assert all(num_params(model) == 0 for model in models)
        models.append(dense_beside(job))
        return models[-1]

    monkeypatch.setattr(reached, "dense_beside", beside)
    with (
        pytest.raises(StoppedError),
        registry.observed_by(
            Stopper(lambda event: isinstance(event, Journaled) and event.key.endswith("/latency")), "the stopper"
        ),
    ):
        run(settings(small_run, tmp_path / "run", target_latency="0.85x"), registry=registry)
    assert len(models) > 1


@pytest.mark.parametrize("key", ["prices", "round-2/latency", "budget"])
def test_damaged_events_of_a_budget_are_refused(key: str) -> None:
    assert fault_of(key, {}) is not None


def test_a_budget_of_time_resumes_with_the_times_it_began_with(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch)
    config = settings(small_run, tmp_path / "run", target_latency="0.8x")
    steps = ("prices", "round-1/selection", "round-2/latency", "round-2/selection", "budget")

    def where(event: Event) -> Path | None:
        return tmp_path / event.key.replace("/", "-") if isinstance(event, Journaled) and event.key in steps else None

    with registry.observed_by(Photographer(tmp_path / "run", where), "the photographer"):
        whole = run(config, registry=registry)
    for step in steps:
        clock = FakeClock(monkeypatch, real=0.95)  # the machine is another one by now
        report = resume(tmp_path / step.replace("/", "-"), registry=registry).report
        assert report["layers"] == whole.report["layers"] or step in ("prices", "round-1/selection")
        assert report["rounds"][0] == whole.report["rounds"][0]
        assert clock.calls == 0 or step != "budget"


@pytest.mark.parametrize("pico", [Pico("llama", 2), Pico("phi", 4), Pico("opt", 4, tied=True), *MIXTURES[:2]], ids=str)
@pytest.mark.parametrize("decode", [True, False])
def test_measuring_leaves_no_trace_and_gives_prices(
    pico: Pico, decode: bool, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_latency, "SECONDS", 0.0)
    subject = Subject(pico.build(), family_of(registry, pico), units=("attention", "mlp", "expert_width", "layer"))
    ids = torch.arange(16)[None]
    before, modules = subject.model(ids).logits, dict(subject.model.named_modules())
    numbers = {name: vars(module).get("layer_idx") for name, module in modules.items()}
    measured = measure_layers(subject, TimedPass(decode, 1, 16))
    assert torch.equal(subject.model(ids).logits, before)
    after = dict(subject.model.named_modules())
    assert after == modules
    assert {name: vars(module).get("layer_idx") for name, module in after.items()} == numbers
    prices, whole = latency_prices(subject, measured)
    table = subject.table.priced(prices, whole)
    assert whole == round(measured["dense_s"] * PICOSECONDS) > 0
    for site in table:
        cost_N = site.cost(np.arange(site.num_units + 1))
        assert cost_N[0] == 0
        assert (np.diff(cost_N) >= 0).all()


# Settings


@pytest.mark.parametrize(
    ("quantity", "text", "dense", "leaving"),
    [
        (COUNT, "1B", 4_000_000_000, 0.75),
        (COUNT, "350M", 700_000_000, 0.5),
        (COUNT, "1.5k", 3_000, 0.5),
        (COUNT, "0.25x", 8, 0.75),
        (BYTES, "2GB", 4 * 10**9, 0.5),
        (BYTES, "1GiB", 2**31, 0.5),
        (BYTES, "600 MB", 1_200_000_000, 0.5),
        (TIME, "30ms", 60 * 10**9, 0.5),
        (TIME, "1.5s", 3 * 10**12, 0.5),
    ],
)
def test_quantities(quantity: Any, text: str, dense: int, leaving: float) -> None:
    assert quantity.parse(text).leaving(dense) == leaving


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target_params": "1.5x"}, "less than 1x"),
        ({"target_params": "0x"}, "more than 0x"),
        ({"target_params": "2GB"}, "write it like 1.2B"),
        ({"target_bytes": "lots"}, "write it like 2GB"),
        ({"target_kv": 0.5}, "or 0.5x (got '0.5')"),
        ({"target_kv": True}, "target_kv"),
        ({"target_latency": "30"}, "30ms"),
        ({"target_params": "-1B"}, "write it like"),
        ({"target_params": "1B", "target_kv": "0.5x"}, "target_params and target_kv: give one of them"),
        ({"sparsity": 0.2, "target_kv": "0.5x"}, "sparsity and target_kv: give one of them"),
        ({"sparsity": None}, "there is no target instead"),
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BonsaiError) as caught:
        RunConfig.from_mapping(values, "the test")
    assert words in str(caught.value)


def test_a_target_takes_the_place_of_the_default_sparsity() -> None:
    config = RunConfig.from_mapping({"target_params": 1_000_000_000}, "the test")
    assert (config.sparsity, config.target, config.target_params) == (None, "target_params", "1000000000")
    assert RunConfig.from_mapping(config.model_dump(mode="json"), "again") == config
    assert config.budget_name == "params-1000000000"
    assert RunConfig().budget_name == "20"
    assert RunConfig.from_mapping({"target_kv": "0.5x"}, "the test").budget_name == "kv-0.5x"
    assert most_rounds(RunConfig.from_mapping({"target_kv": "0.5x"}, "the test")) == 5


def test_an_option_takes_the_place_of_a_recipes_budget(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("sparsity: 0.4\nsamples: 3\n")
    config = from_options({"target_kv": "0.5x"}, str(recipe))
    assert (config.sparsity, config.target, config.samples) == (None, "target_kv", 3)
    recipe.write_text("target_kv: 0.5x\n")
    assert from_options({"sparsity": "0.3"}, str(recipe)).sparsity == 0.3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_params": "1B"}, "the dense model has no more than that (56.03K parameters)"),
        ({"target_params": "0.1x"}, "cannot be met: with --units attention,mlp,experts --min-units 1"),
        ({"target_kv": "0.5x", "units": "mlp"}, "no unit of these kinds reduces it. Give others with --units"),
        ({"target_kv": "0.2x"}, "at least 192 bytes are left, 0.5x of the dense model's 384B"),
        ({"target_active_params": "0.05x"}, "parameters are left"),
        ({"target_bytes": "0.01x"}, "bytes are left"),
        ({"target_latency": "0.01x"}, "us are left, "),
    ],
    ids=str,
)
def test_a_budget_that_cannot_be_met(
    small_run: RunConfig,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    words: str,
) -> None:
    FakeClock(monkeypatch)
    with pytest.raises(BonsaiError) as caught:
        pruned(small_run, tmp_path / "run", registry, **changes)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_least_that_an_error_names_can_be_met(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BonsaiError) as caught:
        pruned(small_run, tmp_path / "run", registry, target_params="0.1x")
    least = re.search(r"at least ([0-9,]+) parameters are left, ([0-9.]+x)", str(caught.value))
    assert least is not None
    for target in least.groups():
        changes = {"target_params": target.replace(",", ""), "estimator": "none"}
        report = pruned(small_run, tmp_path / target, registry, **changes)
        assert report["budget"]["measured"] <= report["budget"]["target"]


# Around a run


def test_a_dry_run_and_the_start_say_what_the_budget_means(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    config = settings(small_run, tmp_path / "run", target_kv="0.5x")
    words = "Would leave at most 192B of KV cache per token (0.50x of the dense model's 384B)"
    assert dry_run(config, registry=registry).budget.describe() == words
    listener = Listener()
    with registry.observed_by(listener, "the test"):
        run(config, registry=registry)
    started = next(event for event in listener.events if isinstance(event, RunStarted))
    assert started.goal == "at most 192B of KV cache per token"
    warned = [event.text for event in listener.events if isinstance(event, Warned)]
    assert any("Units of the kind mlp stay" in text for text in warned)


def test_a_run_with_a_target_resumes(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    config = settings(small_run, tmp_path / "run", target_bytes="0.7x")
    whole = run(config, registry=registry).report
    shutil.rmtree(tmp_path / "run")
    stopper = Stopper(lambda event: isinstance(event, Journaled) and event.key == "round-1/selection")
    with registry.observed_by(stopper, "the test"), pytest.raises(StoppedError):
        run(config, registry=registry)
    again = resume(tmp_path / "run", registry=registry).report
    assert {name: again[name] for name in ("budget", "layers", "rounds", "perplexity")} == {
        name: whole[name] for name in ("budget", "layers", "rounds", "perplexity")
    }


def test_the_report_shows_target_predicted_and_measured(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    result = run(settings(small_run, tmp_path / "run", target_kv="0.5x"), registry=registry)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(report_view(result.report, result.directory))
    words = "budget --target-kv 0.5x: of KV cache per token, dense 384B, target 192B, predicted 192B, measured 192B"
    assert words in captured.get()
    assert RunDirectory.open(tmp_path / "run").read_report()["budget"] == result.report["budget"]
