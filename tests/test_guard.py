"""The guard: KL to the dense model on text of another kind than the calibration text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Listener

from bonsai_core import BonsaiError, Registry, RunConfig, resume, run
from bonsai_core.cli.main import cli
from bonsai_core.engine.setup import open_job
from bonsai_core.events import RoundFinished, TokensDone, Warned
from bonsai_core.rundir.divergence import HARMLESS, NARROW, describe_narrowness
from bonsai_core.sources import load_metric_text


def config(base: RunConfig, out: Path, **settings: Any) -> RunConfig:
    return base.model_copy(update={"out": out, "latency": False, **settings})


def test_it_is_in_the_report_and_every_round(small_run: RunConfig, tmp_path: Path) -> None:
    listener, registry = Listener(), Registry()
    registry.register(listener, "the listener")
    report = run(config(small_run, tmp_path / "run"), registry=registry).report
    assert report["guard"] == load_metric_text(str(small_run.guard_dataset)).describe()
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    finished = [event for event in listener.events if isinstance(event, RoundFinished)]
    assert [event.guard_kl for event in finished] == [row["divergence"]["guard"] for row in report["rounds"]]
    assert all(row["divergence"]["guard"] > 0 for row in report["rounds"])
    assert sum(event.tokens for event in listener.events if isinstance(event, TokensDone)) == report["forward_tokens"]
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(cli, ["report", str(tmp_path / "run")]).stdout
    assert f"{report['rounds'][-1]['divergence']['guard']:.3f}" in shown
    assert "…" not in shown.partition("kept")[2]


@pytest.mark.parametrize("off", [{"guard_dataset": "none"}, {"guard_samples": 0}])
def test_it_decides_nothing(small_run: RunConfig, registry: Registry, tmp_path: Path, off: dict[str, Any]) -> None:
    one = run(config(small_run, tmp_path / "with"), registry=registry).report
    other = run(config(small_run, tmp_path / "without", **off), registry=registry).report
    assert other["guard"] is None
    for with_guard, without in zip(one["rounds"], other["rounds"], strict=True):
        del with_guard["divergence"]["guard"]
        assert with_guard == without
    assert one["perplexity"] == other["perplexity"]
    assert one["forward_tokens"] - other["forward_tokens"] == 3 * small_run.guard_samples * small_run.sequence_length


def test_methods_without_sub_models_are_guarded_too(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    for held_out in (0, 2):
        settings = {"estimator": "none", "held_out_samples": held_out, "out": tmp_path / str(held_out)}
        report = run(RunConfig.model_validate(small_run.model_dump() | settings | {"latency": False})).report
        divergence = report["rounds"][-1]["divergence"]
        assert {"guard", "narrow"} <= set(divergence)
        assert ("held_out" in divergence) == bool(held_out)


def test_what_ships_with_python_and_is_not_calibrated_on_is_the_default(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"The {number}. paragraph is here." for number in range(200)), encoding="utf-8")
    shares = f"{other}:0.5,builtin:0.5"
    for dataset, name in (("builtin", "builtin-code"), (shares, "builtin-code"), (str(other), "builtin")):
        job = open_job(config(small_run, tmp_path, dataset=dataset, guard_dataset=None), registry, print)
        guard = job.calibration.guard
        assert guard.text is not None
        assert guard.text["name"] == name
        assert {"sha256", "python"} <= set(guard.text)
        assert guard.windows_NT.shape == (small_run.guard_samples, small_run.sequence_length)
        again = open_job(config(small_run, tmp_path, dataset=dataset, guard_dataset=None), registry, print)
        np.testing.assert_array_equal(again.calibration.guard.windows_NT, guard.windows_NT)


def test_the_calibration_text_is_no_guard(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    named = {"dataset": small_run.dataset, "guard_dataset": small_run.dataset}
    with pytest.raises(BonsaiError, match=r"The guard is text of another kind.*--guard-dataset"):
        run(config(small_run, tmp_path / "run", **named), registry=registry)
    everything = {"dataset": "builtin:1,builtin-code:1", "guard_dataset": None}
    listener: list[Any] = []
    job = open_job(config(small_run, tmp_path, **everything), registry, listener.append)
    assert job.calibration.guard.text is None
    assert any("there is no guard" in event.text for event in listener if isinstance(event, Warned))


def test_a_run_goes_on_with_the_same_guard(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    guard = tmp_path / "guard.txt"
    guard.write_text("A tree has leaves, and a branch. " * 30, encoding="utf-8")
    run(config(small_run, tmp_path / "run", guard_dataset=str(guard)), registry=registry)
    guard.write_text("Another text than it was before. " * 30, encoding="utf-8")
    with pytest.raises(BonsaiError, match="The guard of this run has changed"):
        resume(tmp_path / "run", registry=registry)


def test_a_short_guard_is_told(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    guard = tmp_path / "guard.txt"
    guard.write_text("A tree has leaves, and a branch. " * 5, encoding="utf-8")
    listener: list[Any] = []
    open_job(config(small_run, tmp_path, guard_dataset=str(guard)), registry, listener.append)
    assert any("The guard text has only" in event.text for event in listener if isinstance(event, Warned))


def test_a_narrow_text_is_told() -> None:
    assert describe_narrowness({"held_out": 0.1, "guard": 0.11 * NARROW}) is not None
    for held_out, guard in ((0.1, 0.09 * NARROW), (None, 5.0), (0.1, None), (0.0, 0.0), (0.0, HARMLESS)):
        assert describe_narrowness({"held_out": held_out, "guard": guard}) is None
    assert describe_narrowness({"guard": 5.0}) is None


def test_a_report_of_a_narrow_text_says_so(small_run: RunConfig, registry: Registry, tmp_path: Path) -> None:
    report = run(config(small_run, tmp_path / "run"), registry=registry).report
    changed = json.loads(json.dumps(report))
    changed["rounds"][-1]["divergence"] |= {"held_out": 0.1, "guard": 0.2 * NARROW}
    for written, told in ((report, False), (changed, True)):
        (tmp_path / "run" / "report.json").write_text(json.dumps(written))
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["report", str(tmp_path / "run")]).stdout
        assert ("The calibration text is narrow" in shown) == told
