"""The method's variants in whole runs on pico models: recipes, metrics on other data, schedules, repair, sharing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import PICOS, Listener, Pico, measured, saved
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bonsai_core import (
    BonsaiError,
    Compensator,
    MeasurementCache,
    Registry,
    Removal,
    Repair,
    RunConfig,
    WeightCompensator,
    hookimpl,
    load_model,
    resume,
    run,
)
from bonsai_core.engine.finish import finish
from bonsai_core.engine.machine import CPU_SAMPLES, suited_to_machine
from bonsai_core.engine.plan import round_targets
from bonsai_core.engine.setup import open_job
from bonsai_core.events import Event, Journaled, TokensDone, Warned
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.sources import draw_questions, read_rows

RECIPES = [offer.name for offer in Registry().offers("recipe") if offer.name != "moe"]  # which wants a mixture
QUESTIONS: list[dict[str, Any]] = [
    {"question": "What does a tree have?", "choices": ["leaves", "wheels", "a long keyboard"], "gold": 0},
    {"question": "What is cut?", "choices": ["water", "a branch"], "gold": 1},
    {"question": "Which one is a number?", "choices": ["seven", "green", "slowly", "of"], "gold": 0},
]


class Counter:
    """Counts tokens that went through the model, and those that did not have to."""

    def __init__(self) -> None:
        self.live = self.replayed = 0

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, TokensDone) and event.replayed:
            self.replayed += event.tokens
        elif isinstance(event, TokensDone):
            self.live += event.tokens


@pytest.fixture
def questions(tmp_path: Path) -> str:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in QUESTIONS), encoding="utf-8")
    return str(file)


def settings(small_run: RunConfig, out: Path, **changes: Any) -> RunConfig:
    values = small_run.model_dump(mode="json") | {"latency": False, "out": str(out)} | changes
    return RunConfig.from_mapping(values, "the test")


# Recipes

ELSEWHERE = {"model", "dataset", "sparsity", "target_params", "device_map", "max_memory", "runtimes", "adapt"}
"""Settings of recipes that are about a model, a machine or what follows, and no method."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prunes_to_the_budget(small_run: RunConfig, registry: Registry, tmp_path: Path, name: str) -> None:
    small = {"submodels": 4, "samples": 2, "prior_samples": 4, "sequence_length": 32}
    methods = {setting: value for setting, value in registry.recipe(name).items() if setting not in ELSEWHERE}
    config = settings(small_run, tmp_path / "run", **{**methods, **small})
    report = run(config, registry=registry).report
    least = 1 / 3 if config.units == ("layer",) else 0.3  # whole layers, of three
    assert report["sparsity"]["decoder"] == pytest.approx(least, abs=0.01)
    assert len(report["rounds"]) == max(config.min_rounds, len(set(np.arange(0, 0.3, config.round_fraction))))


def test_rounds_are_of_a_fraction_or_a_number_of_equal_ones() -> None:
    for settings_, targets in (
        ({"round_fraction": 0.1}, [0.1, 0.2, 0.25]),
        ({"round_fraction": 0.1, "min_rounds": 2}, [0.1, 0.2, 0.25]),
        ({"round_fraction": 0.2, "min_rounds": 4}, [0.0625, 0.125, 0.1875, 0.25]),
        ({"round_fraction": 1.0}, [0.25]),
    ):
        assert round_targets(RunConfig(**settings_), 0.25) == pytest.approx(targets)


def test_shortgpt_takes_whole_layers(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    config = settings(small_run, tmp_path / "run", **registry.recipe("shortgpt"), sparsity=0.5)
    layers = run(config, registry=registry).report["layers"]
    whole = [all(site["kept"] == site["dense"] for site in layer.values()) for layer in layers]
    gone = [not any(site["kept"] for site in layer.values()) for layer in layers]
    assert any(whole)
    assert any(gone)
    assert len(layers) - sum(whole) - sum(gone) <= 1


# Repair


def test_what_bias_repair_saves_loads_everywhere(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    config = settings(small_run, tmp_path / "run", compensator="bias", min_units=0)
    result = run(config, registry=registry)
    biases = {name: p for name, p in load_model(str(result.model_path)).named_parameters() if name.endswith(".bias")}
    assert len(biases) == 2 * len(result.report["layers"])
    assert any(bias.any() for bias in biases.values())
    remote = AutoModelForCausalLM.from_pretrained(result.model_path, trust_remote_code=True)
    ids = torch.arange(24)[None]
    assert torch.equal(remote(ids).logits, load_model(str(result.model_path))(ids).logits)
    found = measured(config, tmp_path / "run")
    assert found["perplexity"] == pytest.approx(result.report["perplexity"]["pruned"], rel=1e-5)


def test_bias_repair_replaces_units_by_their_mean(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    """Of the first MLP, whose inputs nothing changes here, the mean output on the calibration text stays."""
    change = {}
    for name in ("none", "bias"):
        one_shot = {"round_fraction": 1.0, "estimator": "none", "prior_samples": 4}
        config = settings(small_run, tmp_path / name, compensator=name, **one_shot)
        job = open_job(config, registry, print)
        with torch.inference_mode():
            dense, pruned = (
                _mean_output(model, job.calibration.prior_RNT[0])
                for model in (job.subject.model, load_model(str(run(config, registry=registry).model_path)))
            )
        change[name] = float((dense - pruned).norm() / dense.norm())
    assert change["none"] > 0.01
    assert change["bias"] < 1e-4


class Rescaled(WeightCompensator):
    """Scales what is kept up to the size of what there was."""

    name: ClassVar[str] = "rescaled"
    changes_weights: ClassVar[bool] = True
    computed: ClassVar[list[torch.Size]] = []

    def repair(self, removal: Removal) -> Repair:
        self.computed.append(removal.weight.shape)
        kept = removal.weight[:, removal.keep]
        return Repair(weight=kept * (removal.weight.norm() / kept.norm()) if len(kept[0]) else kept)


class WeightsAlone:
    """A plugin with a compensator that reads no text."""

    @hookimpl
    def bonsai_compensators(self) -> list[type[Compensator]]:
        return [Rescaled]


def test_a_compensator_of_weights_alone_needs_no_pass(small_run: RunConfig, tmp_path: Path) -> None:
    perplexities: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for name in ("none", "rescaled"):
        registry, counter = Registry(), Counter()
        registry.register(WeightsAlone(), "a notebook")
        registry.register(counter, "a test")
        config = settings(small_run, tmp_path / name, prior="magnitude", compensator=name)
        result = run(config, registry=registry)
        perplexities[name], tokens[name] = result.report["perplexity"]["pruned"], counter.live
        assert measured(small_run, result.directory)["perplexity"] == pytest.approx(perplexities[name], rel=1e-4)
    assert perplexities["rescaled"] != perplexities["none"]
    assert tokens["rescaled"] == tokens["none"]


def test_least_squares_brings_the_model_closer_to_the_dense_one(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    one_shot = {"round_fraction": 1.0, "estimator": "none", "prior_samples": 16, "shapes": "uniform"}
    before, after = (
        run(settings(small_run, tmp_path / name, compensator=name, **one_shot), registry=registry)
        for name in ("none", "least_squares")
    )
    config = settings(small_run, tmp_path / "run", **one_shot)
    job = open_job(config, registry, print)
    with torch.inference_mode():
        dense, *pruned = (
            model(torch.from_numpy(job.calibration.prior_RNT[0])).logits
            for model in (job.subject.model, *(load_model(str(result.model_path)) for result in (before, after)))
        )
    errors = [float((logits - dense).norm() / dense.norm()) for logits in pruned]
    assert errors[1] < 0.95 * errors[0]
    assert "bias" not in " ".join(load_model(str(after.model_path)).state_dict())


@pytest.mark.parametrize("compensator", ["least_squares", "bias"])
def test_what_several_rounds_remove_is_repaired_as_if_one_had(
    small_run: RunConfig, registry: Registry, tmp_path: Path, compensator: str
) -> None:
    """Not repair upon repair: the same units gone, the same weights, however many rounds it took."""
    fixed = {"prior": "uniform", "estimator": "none", "prior_samples": 16, "compensator": compensator}
    models = [
        load_model(str(run(settings(small_run, tmp_path / name, **fixed, **rounds), registry=registry).model_path))
        for name, rounds in (("one", {"round_fraction": 1.0}), ("three", {"round_fraction": 0.1}))
    ]
    one, three = (model.state_dict() for model in models)
    assert {name: weight.shape for name, weight in one.items()} == {n: weight.shape for n, weight in three.items()}
    for name, weight in one.items():
        torch.testing.assert_close(three[name], weight, rtol=1e-3, atol=1e-4)


def test_layers_that_left_are_made_up_for_on_the_calibration_text(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    """The hidden states behind the gap come closer to what the layers would have made of them."""
    fixed = {"units": "layer", "protect": "0", "prior": "uniform", "estimator": "none", "prior_samples": 64}
    weak = {"name": "least_squares", "layer_damping": 1e-6}
    plain, filled = (
        load_model(
            str(run(settings(small_run, tmp_path / name, **fixed, compensator=by), registry=registry).model_path)
        )
        for name, by in (("plain", "none"), ("filled", weak))
    )
    job = open_job(settings(small_run, tmp_path / "run", **fixed), registry, print)
    assert plain.config.num_hidden_layers == filled.config.num_hidden_layers == job.parent.config.num_hidden_layers - 1
    changed = [n for n, w in plain.state_dict().items() if not torch.equal(w, filled.state_dict()[n])]
    (name,) = changed  # the last output projection in front of the layer, and nothing else
    assert name.endswith("mlp.down_proj.weight")
    number = int(name.split(".")[2])
    with torch.inference_mode():
        ids = torch.from_numpy(job.calibration.prior_RNT[0])
        behind = [model(ids, output_hidden_states=True).hidden_states[number + 1] for model in (plain, filled)]
        left = _through(job.subject.model, number + 1, behind[0])
    errors = [float(((hidden - left) / left.norm(dim=-1, keepdim=True)).square().sum()) for hidden in behind]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("pico", [p for p in PICOS if str(p).startswith(("gemma2", "granite", "olmo2"))][:3], ids=str)
def test_layers_are_not_made_up_for_where_outputs_are_not_just_added(
    pico: Pico, small_run: RunConfig, registry: Registry, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    parent = saved(pico, tokenizer, tmp_path / "parent")
    fixed = {"model": str(parent), "units": "layer", "protect": "0", "prior": "uniform", "estimator": "none"}
    plain, repaired = (
        load_model(
            str(run(settings(small_run, tmp_path / name, **fixed, compensator=name), registry=registry).model_path)
        ).state_dict()
        for name in ("none", "least_squares")
    )
    assert all(torch.equal(weight, repaired[name]) for name, weight in plain.items())


def _through(model: Any, number: int, hidden: torch.Tensor) -> torch.Tensor:
    """What one layer of a LLaMA makes of hidden states."""
    positions = torch.arange(hidden.shape[1])[None]
    rotary = model.model.rotary_emb(hidden, positions)
    output = model.model.layers[number](hidden, position_embeddings=rotary, position_ids=positions)
    whole: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return whole


@pytest.mark.parametrize(
    ("changes", "repaired"),
    [
        ({"compensator": "least_squares"}, True),
        ({"compensator": "least_squares", "sampler": {"name": "antithetic", "level": "unit"}, "submodels": 40}, False),
        ({"compensator": "bias", "sampler": {"name": "antithetic", "level": "unit"}}, True),
        ({"compensator": "none"}, False),
    ],
)
def test_the_report_says_whether_sub_models_were_repaired(
    small_run: RunConfig, registry: Registry, tmp_path: Path, changes: dict[str, Any], repaired: bool
) -> None:
    report = run(settings(small_run, tmp_path / "run", **changes), registry=registry).report
    assert [row["repaired_submodels"] for row in report["rounds"]] == [repaired] * len(report["rounds"])


def test_repaired_sub_models_are_worth_what_repair_makes_of_them(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    values = []
    for compensator in ("none", "least_squares"):
        config = settings(small_run, tmp_path / compensator, compensator=compensator, prior="wanda")
        run(config, registry=registry)
        assert config.out is not None
        with closing(sqlite3.connect(config.out / "journal.sqlite")) as database:
            rows = dict(database.execute("SELECT key, payload FROM events"))
        values.append(json.loads(rows["round-1/submodels-0"])["values"])
        assert len(values[-1]) == config.submodels
    assert all(repaired < plain for plain, repaired in zip(*values, strict=True)), values


def test_nothing_of_the_rounds_scratch_is_left(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    config = settings(small_run, tmp_path / "run", prior="obs", compensator="least_squares")
    run(config, registry=registry)
    left = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*.safetensors")]
    assert left == [Path("model/model.safetensors")]


def _mean_output(model: Any, windows_NT: Any) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.from_numpy(windows_NT))
    handle.remove()
    return seen[0].mean(dim=(0, 1))


# Metrics


def test_choices_are_scored_as_by_hand(
    small_run: RunConfig, registry: Registry, questions: str, tmp_path: Path
) -> None:
    job = open_job(settings(small_run, tmp_path, metric="choice", metric_dataset=questions, samples=3), registry, print)
    drawn = draw_questions(read_rows(questions), job.tokenizer, num_questions=3, seed=0, draw=0, warn=print)
    answers = job.passes.answers(drawn)
    assert sorted(found.gold for found in answers) == [0, 0, 1]
    with torch.inference_mode():
        for question, found in zip(drawn, answers, strict=True):
            for choice, ids in enumerate(question.sequences):
                log_p = job.subject.model(torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1)
                expected = sum(float(log_p[t - 1, ids[t]]) for t in range(question.num_given[choice], len(ids)))
                assert found.log_likelihood[choice] == pytest.approx(expected, rel=1e-5)
            text = job.tokenizer.decode(question.sequences[0][question.num_given[0] :])
            assert text.strip() in {choice for row in QUESTIONS for choice in row["choices"]}


@pytest.mark.parametrize("measures", ["likelihood", "accuracy"])
def test_a_model_is_pruned_for_a_task(
    small_run: RunConfig, registry: Registry, questions: str, tmp_path: Path, measures: str
) -> None:
    metric = {"name": "choice", "measures": measures}
    report = run(settings(small_run, tmp_path / "run", metric=metric, metric_dataset=questions, samples=3)).report
    assert report["measured_on"]["questions"] == 3
    assert report["sparsity"]["decoder"] >= 0.3


def test_sub_models_may_be_measured_on_another_text(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("A quite different text, of its own.\n\n" * 400, encoding="utf-8")
    report = run(settings(small_run, tmp_path / "run", metric_dataset=str(other))).report
    assert report["measured_on"]["name"] == str(other)
    assert report["calibration"]["name"] == small_run.dataset


def test_a_python_function_is_a_metric(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    calls = []

    def smoothness(model: Any, tokenizer: Any) -> float:
        with torch.inference_mode():
            value = -float(model(torch.tensor([tokenizer("a word")["input_ids"]])).logits.std())
        calls.append(value)
        return value

    config = settings(small_run, tmp_path / "run")
    report = run(config, registry=registry, metric=smoothness).report
    assert len(calls) == 2 * config.submodels
    assert len(set(calls)) > 2
    assert report["config"]["metric"].startswith("python:")
    assert report["config"]["metric"].endswith("smoothness")
    (tmp_path / "run" / "report.json").unlink()
    with pytest.raises(BonsaiError, match=r"Python function .*smoothness.*metric=function"):
        resume(tmp_path / "run", registry=registry)
    with pytest.raises(BonsaiError, match=r"measures sub-models by .*smoothness', not by .*lambda"):
        resume(tmp_path / "run", registry=registry, metric=lambda model, tokenizer: 0.0)
    again = resume(tmp_path / "run", registry=registry, metric=smoothness).report
    assert again == report


def test_the_evaluation_text_is_no_metric_text(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    whole = tmp_path / "whole.txt"
    whole.write_text("Before it.\n\n" + Path(str(small_run.eval_dataset)).read_text(encoding="utf-8"))
    for name in (small_run.eval_dataset, str(whole)):
        with pytest.raises(BonsaiError, match="holds the evaluation text"):
            run(settings(small_run, tmp_path / "run", metric_dataset=name), registry=registry)


def test_a_text_that_is_held_out_from_is_the_same_for_the_metric(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    one = {"dataset": small_run.dataset, "eval_dataset": None, "metric_dataset": small_run.dataset}
    job = open_job(settings(small_run, tmp_path, **one), registry, print)
    assert job.calibration.measured_on is not None
    assert job.calibration.measured_on["split"] == "head"


def test_python_metrics_build_no_graph(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    def graphless(model: Any, tokenizer: Any) -> float:
        logits = model(torch.tensor([[1, 2, 3]])).logits
        assert not logits.requires_grad
        return float(logits.std())

    run(settings(small_run, tmp_path / "run", sparsity=0.15), registry=registry, metric=graphless)


def test_questions_have_to_be_named(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BonsaiError, match=r"reads multiple-choice questions.*--metric-dataset"):
        run(settings(small_run, tmp_path / "run", metric="choice"), registry=registry)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["a", "b"], "gold": 2}, r"line 1: \"gold\" must be the index.*0 to 1; it is 2"),
        ({"question": "q", "choices": ["a"], "gold": 0}, r"line 1: \"choices\" must be a list of at least two"),
        ({"question": " ", "choices": ["a", "b"], "gold": 0}, r"line 1: \"question\" must be text"),
        ({"text": "only text"}, r"line 1: \"question\" must be text"),
        ([1], "begins with a JSON array"),
    ],
)
def test_rows_that_are_no_questions_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(BonsaiError, match=message):
        read_rows(str(file))


def test_an_empty_file_of_questions_and_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "rows.jsonl"
    empty.write_text("\n")
    with pytest.raises(BonsaiError, match="holds no question"):
        read_rows(str(empty))
    with pytest.raises(BonsaiError, match=r"is not a \.jsonl file"):
        read_rows(str(tmp_path / "rows.csv"))


# Schedules


def test_fresh_draws_take_other_windows_in_every_round(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    common, fresh = (
        open_job(settings(small_run, tmp_path, resample=resample, prior_samples=4), registry, print)
        for resample in ("common", "fresh")
    )
    assert len(common.calibration.prior_RNT) == len(common.calibration.data) == 1
    np.testing.assert_array_equal(common.calibration.prior_RNT[0], fresh.calibration.prior_RNT[0])
    first, second = ({tuple(row) for row in windows_NT.tolist()} for windows_NT in fresh.calibration.prior_RNT)
    assert len(first) == len(second) == 4
    assert not first & second
    assert fresh.calibration.data[0].sha256 != fresh.calibration.data[1].sha256


def test_what_is_chosen_by_is_text_of_its_own(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    sizes = {"prior_samples": 8, "samples": 4, "search": 1, "search_samples": 4, "held_out_samples": 4}
    drawn = open_job(settings(small_run, tmp_path, **sizes), registry, print).calibration
    parts = [drawn.prior_RNT[0], drawn.data[0].windows_NT, drawn.search[0].windows_NT, drawn.held_out_NT]
    assert [len(part) for part in parts] == [8, 4, 4, 4]
    rows = [tuple(row) for part in parts for row in part.tolist()]
    assert len(set(rows)) == len(rows)


def test_a_short_text_is_shared_but_never_held_out(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    events: list[Event] = []
    config = settings(small_run, tmp_path, prior_samples=1000, samples=2)
    drawn = open_job(config, registry, events.append).calibration
    warnings = [event.text for event in events if isinstance(event, Warned)]
    assert len(drawn.data[0].windows_NT) == 2
    assert len(drawn.held_out_NT) == 0
    assert any("were asked for" in warning for warning in warnings)
    assert any("no windows to hold out" in warning for warning in warnings)


def test_perplexity_after_every_round(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    report = run(settings(small_run, tmp_path / "long", eval_rounds=True), registry=registry).report
    short = run(settings(small_run, tmp_path / "short", sparsity=0.15), registry=registry).report
    assert report["rounds"][0]["perplexity"] == pytest.approx(short["perplexity"]["pruned"], rel=1e-5)
    assert "perplexity" not in report["rounds"][1]  # that is the pruned model's


# The adaptive sampler


def test_an_adaptive_run_stops_when_the_decision_has_settled(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    measured = []
    for settled in (0.01, 1.0):
        sampler = {"name": "adaptive", "settled": settled, "batch": 2, "first": 0.25}
        config = settings(
            small_run, tmp_path / str(settled), sampler=sampler, estimator="bayes", submodels=16, sparsity=0.15
        )
        (row,) = run(config, registry=registry).report["rounds"]
        measured.append(row["submodels"])
    assert measured[0] == 4
    assert 4 < measured[1] <= 16


def test_an_adaptive_sampler_needs_an_estimator_that_knows_its_spread(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(BonsaiError, match=r"'adaptive' needs.*'ridge' does not\. These do: bayes"):
        run(settings(small_run, tmp_path / "run", sampler="adaptive", estimator="ridge"), registry=registry)


def test_biases_do_not_go_into_stock_checkpoints(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BonsaiError, match="'bias' adds biases, which stock checkpoints have no place for"):
        run(settings(small_run, tmp_path / "run", compensator="bias", shapes="uniform"), registry=registry)


@pytest.mark.parametrize(("level", "first", "repaired"), [("site", 4, True), ("unit", 24, False)])
def test_the_adaptive_sampler_repairs_all_sub_models_of_a_round_or_none(
    small_run: RunConfig, tmp_path: Path, level: str, first: int, repaired: bool
) -> None:
    registry, watch = Registry(), RepairsPerDraw()
    registry.register(watch, "a test")
    registry.register(WeightsAlone(), "a notebook")
    adaptive = {"name": "adaptive", "first": 0.5, "batch": 2, "settled": 1.0, "level": level}
    config = settings(
        small_run, tmp_path / "run", sampler=adaptive, estimator="bayes", submodels=2 * first, compensator="rescaled"
    )
    report = run(config, registry=registry).report
    assert [row["repaired_submodels"] for row in report["rounds"]] == [repaired] * 2
    assert {"round-1/submodels-0", f"round-1/submodels-{first}", "round-2/submodels-0"} <= watch.draws.keys()
    assert {count > 0 for count in watch.draws.values()} == {repaired}


class RepairsPerDraw:
    """Counts the repairs that were computed for each batch of sub-models."""

    def __init__(self) -> None:
        self.draws: dict[str, int] = {}
        self._before = 0

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Journaled):
            if "submodels" in event.key:
                self.draws[event.key] = len(Rescaled.computed) - self._before
            self._before = len(Rescaled.computed)


def test_limits_hold_to_the_end(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    limits = {"protect": (0, -1), "max_fraction": {"mlp": 0.75}, "round_to": {"mlp": 4}, "sparsity": 0.2}
    layers = run(settings(small_run, tmp_path / "run", **limits), registry=registry).report["layers"]
    for number in (0, -1):
        assert all(site["kept"] == site["dense"] for site in layers[number].values())
    middle = layers[1]["mlp"]
    assert middle["dense"] > middle["kept"] >= middle["dense"] / 4
    assert middle["kept"] % 4 == 0


# The search


def test_the_search_never_ends_further_from_the_dense_model(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    report = run(settings(small_run, tmp_path / "run", search=4, prior_samples=8), registry=registry).report
    for row in report["rounds"]:
        assert row["details"]["search_end"] >= row["details"]["search_start"]
    assert report["sparsity"]["decoder"] >= 0.3
    assert sum(row["details"]["search_improved"] for row in report["rounds"]) > 0


# Seeds by which the two answers differ in some round.
@pytest.mark.parametrize(("metric", "search", "seed"), [("kl", 0, 0), ("kl", 1, 0), ("choice", 0, 1)])
def test_wholes_stand_only_where_they_measure_better(
    small_run: RunConfig, registry: Registry, tmp_path: Path, questions: str, metric: str, search: int, seed: int
) -> None:
    """Law 10: more kinds of unit never end worse than single units alone."""
    measuring: dict[str, Any] = {
        "metric": metric,
        "search": search,
        **({"metric_dataset": questions} if metric == "choice" else {}),
    }
    measuring["estimator"] = {"name": "ridge", "towards": "zero"}  # by which wholes are among the cheapest
    measuring |= {"sampler": {"name": "antithetic", "in_turn": True}, "seed": seed}
    config = settings(
        small_run, tmp_path / "run", units="attention,mlp,sublayer,layer", submodels=30, search_samples=4, **measuring
    )
    counting, listener = Registry(), Listener()
    counting.register(listener, "the listener")
    report = run(config, registry=counting).report
    assert sum(e.tokens for e in listener.events if isinstance(e, TokensDone)) == report["forward_tokens"]
    compared = [row["details"] for row in report["rounds"] if "wholes_stand" in row["details"]]
    assert compared
    for details in compared:
        assert details["wholes_stand"] == (details["with_wholes"] > details["without_wholes"])
        if search:
            assert details["search_start"] == max(details["with_wholes"], details["without_wholes"])
    if not any(details["wholes_stand"] for details in compared):
        assert all(site["kept"] for layer in report["layers"] for site in layer.values())


def test_without_wholes_to_choose_nothing_is_measured_for_them(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    """If single units alone cannot reach the sparsity, the answer with wholes is the only one."""
    limits = {"units": "attention,layer", "min_units": {"attention": 2}, "sparsity": 0.3, "round_fraction": 0.3}
    counting, listener = Registry(), Listener()
    counting.register(listener, "the listener")
    report = run(settings(small_run, tmp_path / "run", **limits), registry=counting).report
    assert "wholes_stand" not in report["rounds"][0]["details"]
    assert not [e for e in listener.events if isinstance(e, Journaled) and "search" in e.key]
    assert sum(e.tokens for e in listener.events if isinstance(e, TokensDone)) == report["forward_tokens"]


def test_a_search_without_text_says_so(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "short.txt"
    other.write_text("A tree has leaves. " * 5, encoding="utf-8")
    with pytest.raises(BonsaiError, match="--search needs at least 4 windows"):
        run(settings(small_run, tmp_path / "run", search=1, metric_dataset=str(other)), registry=registry)


# What several runs share


def test_shared_measurements_change_nothing_and_are_made_once(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    alone = run(
        settings(small_run, tmp_path / "alone", sparsity=0.15, prior="wanda", compensator="none"), registry=registry
    )
    counters = []
    for name in ("first", "second"):
        counting = Registry()
        counters.append(Counter())
        counting.register(counters[-1], "the counter")
        config = settings(small_run, tmp_path / name, sparsity=0.15, prior="wanda", compensator="none")
        report = run(config, registry=counting, cache=MeasurementCache(tmp_path / "shared")).report
        assert report["perplexity"] == alone.report["perplexity"]
        assert report["rounds"] == alone.report["rounds"]
    first, second = counters
    assert first.replayed == 0
    divergence = (config.held_out_samples + config.guard_samples + config.samples) * config.sequence_length
    assert second.live == small_run.eval_samples * small_run.eval_sequence_length + divergence  # of the pruned model
    assert second.live + second.replayed == first.live == report["forward_tokens"]


def test_the_second_round_is_every_runs_own(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    reports = []
    for name, estimator in (("ridge", "ridge"), ("average", "average"), ("alone", "average")):
        shared = None if name == "alone" else MeasurementCache(tmp_path / "shared")
        config = settings(small_run, tmp_path / name, estimator=estimator)
        reports.append(run(config, registry=registry, cache=shared).report)
    assert reports[1]["rounds"] == reports[2]["rounds"]
    assert reports[1]["perplexity"] == reports[2]["perplexity"]


@pytest.mark.parametrize("compensator", ["none", "bias", "least_squares"])
@pytest.mark.parametrize("emptying", [False, True])
def test_masking_to_the_end_is_slicing_between_rounds(
    small_run: RunConfig,
    registry: Registry,
    tmp_path: Path,
    compensator: str,
    emptying: bool,
) -> None:
    emptied = {"sparsity": 0.8, "round_fraction": 0.4, "min_units": 0} if emptying else {}
    perplexities = []
    for name, slices in (("sliced", True), ("masked", False)):
        prior = "obs" if compensator == "least_squares" else "wanda"
        both = {"prior": prior, "compensator": compensator, "eval_rounds": True}
        config = settings(small_run, tmp_path / name, **both, **emptied)
        job = replace(open_job(config, registry, print), slices_between_rounds=slices)
        directory = RunDirectory(tmp_path / name)
        with directory.begin(config, print) as journal:
            journal.append("run", {**job.identity(), "versions": {}})
            report = finish(job, Ledger(directory, journal, print))
        perplexities.append([report["rounds"][0]["perplexity"], report["perplexity"]["pruned"]])
    assert perplexities[1] == pytest.approx(perplexities[0], rel=1e-4)


def test_measurements_that_cannot_be_read_are_made_again(tmp_path: Path) -> None:
    cache = MeasurementCache(tmp_path)
    first = cache.once({"what": "ones"}, lambda: {"a": np.ones(3)})
    assert not first.hit
    assert cache.once({"what": "ones"}, lambda: {}).hit
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    again = cache.once({"what": "ones"}, lambda: {"a": np.ones(3)})
    assert not again.hit
    np.testing.assert_array_equal(again.arrays["a"], first.arrays["a"])


# What is left to the machine


def test_what_is_left_to_the_machine_is_stored_with_the_run(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    result = run(settings(small_run, tmp_path / "run", prior_samples=None), registry=registry)
    assert RunDirectory(result.directory).config().prior_samples == CPU_SAMPLES


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "auto")])
def test_the_demo_model_gets_the_type_that_multiplies_fastest(
    monkeypatch: pytest.MonkeyPatch, small_run: RunConfig, native: bool, expected: str
) -> None:
    monkeypatch.setattr("bonsai_core.engine.machine.multiplies_bfloat16", lambda device: native)
    assert suited_to_machine(RunConfig(model="demo")).dtype == expected
    assert suited_to_machine(RunConfig(model="demo", dtype="float32")).dtype == "float32"
    assert suited_to_machine(small_run).dtype == "auto"
