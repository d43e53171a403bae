"""How fast the pruned model is beside the dense one, at the end of a run, and what a slower one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bonsai_core import Registry, RunConfig, run
from bonsai_core.cli.tables import report_view
from bonsai_core.model.forward.turns import speed, speedup, take_turns
from bonsai_core.rundir.slowness import describe_slowness


def latency(prefill: tuple[float, float, float], decode: tuple[float, float, float]) -> dict[str, Any]:
    """A report's section with these quartiles of the speed-ups."""
    phases = {
        name: {"dense_s": 1.0, "pruned_s": 1.0, "speedup": dict(zip(("low", "median", "high"), values, strict=True))}
        for name, values in (("prefill", prefill), ("decode", decode))
    }
    return {"dense_s": 1.0, "pruned_s": 1.0, "tokens": 8, "phases": phases}


def test_a_machine_whose_speed_changes_is_fair_to_all_sides() -> None:
    clock = 0.0

    def side(work: float) -> Any:
        def once(turn: int) -> tuple[float, float]:
            nonlocal clock
            clock += 1.0
            return work * (10.0 + clock), 1.0  # slower with every call, whoever it is

        return once

    seconds = take_turns([side(2.0), side(1.0)], 4)
    assert seconds.shape == (2, 4, 2)
    assert speedup(*seconds)["prefill"]["median"] == pytest.approx(2.0, rel=0.01)


def test_speed_is_of_the_whole_batch_and_pairs_are_of_the_same_turn() -> None:
    found = speed(np.array([[2.0, 0.5], [4.0, 0.5], [6.0, 0.5]]), batch=8, prompt_tokens=3)
    assert found["prefill_spread_s"] == {"median": 4.0, "low": 3.0, "high": 5.0}
    assert (found["prefill_tokens_per_s"], found["decode_tokens_per_s"]) == (6.0, 16.0)
    drifting = np.array([[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]])
    assert speedup(2 * drifting, drifting)["prefill"] == {"median": 2.0, "low": 2.0, "high": 2.0}


def test_a_run_times_prefill_and_decode_and_shows_both(
    small_run: RunConfig, registry: Registry, tmp_path: Path
) -> None:
    result = run(small_run.model_copy(update={"latency": True, "out": tmp_path / "run"}), registry=registry)
    section = result.report["latency"]
    assert section["tokens"] + section["new_tokens"] == small_run.eval_sequence_length
    assert {"prefill", "decode"} == set(section["phases"])
    for phase in section["phases"].values():
        assert 0 < phase["speedup"]["low"] <= phase["speedup"]["median"] <= phase["speedup"]["high"]
    slow = any(phase["speedup"]["high"] < 1 for phase in section["phases"].values())
    assert section["slower"] == slow
    shown = shown_report(result.report, tmp_path)
    assert f"prefill of {section['tokens']} tokens, ms" in shown
    assert "decode, ms per token" in shown
    assert ("What helps" in shown) == slow


def shown_report(report: Any, path: Path) -> str:
    console = Console(width=300)
    with console.capture() as shown:
        console.print(report_view(report, path))
    return shown.get()


@pytest.mark.parametrize("units", [("attention", "mlp", "sublayer"), ("layer",)], ids=str)
def test_models_without_whole_sublayers_or_layers_are_timed_too(
    small_run: RunConfig, registry: Registry, tmp_path: Path, units: tuple[str, ...]
) -> None:
    settings = {**small_run.model_dump(), "latency": True, "units": units, "sparsity": 0.34, "out": tmp_path / "run"}
    settings |= {"min_units": 0} if "mlp" in units else {"round_fraction": 0.34}
    section = run(RunConfig.model_validate(settings), registry=registry).report["latency"]
    assert section["phases"]["decode"]["pruned_s"] > 0


def test_a_model_that_cannot_generate_ends_no_run(
    small_run: RunConfig, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> tuple[float, float]:
        raise TypeError("forward() got an unexpected keyword argument 'past_key_values'")

    monkeypatch.setattr("bonsai_core.engine.checkpoint.generation_seconds", fail)
    report = run(small_run.model_copy(update={"latency": True, "out": tmp_path / "run"}), registry=registry).report
    assert "cannot generate: forward() got" in report["latency"]["skipped"]


@pytest.mark.parametrize(
    ("prefill", "decode", "slow"),
    [
        ((0.90, 0.95, 0.99), (1.1, 1.2, 1.3), "prefill at 0.95 of its speed (0.90 to 0.99)."),
        ((0.90, 0.95, 1.01), (0.7, 0.8, 0.9), "decode at 0.80 of its speed (0.70 to 0.90)."),
        ((0.90, 0.95, 1.01), (0.9, 1.0, 1.1), None),
    ],
)
def test_slower_means_by_more_than_the_spread(prefill: Any, decode: Any, slow: str | None) -> None:
    told = describe_slowness(latency(prefill, decode), 1)
    assert (slow is None) == (told is None)
    assert slow is None or slow in str(told)


@pytest.mark.parametrize(
    ("round_to", "helps"), [(1, True), ("cpu", True), ({"mlp": 4}, True), (128, False), ("gpu", False)]
)
def test_what_would_help_is_not_what_was_done(round_to: Any, helps: bool) -> None:
    told = describe_slowness(latency((0.8, 0.9, 0.95), (0.8, 0.9, 0.95)), round_to)
    assert told is not None
    assert ("--round-to 64" in told) == helps
    assert "--units layer" in told


@pytest.mark.parametrize("section", [None, {"skipped": "no room"}, {"dense_s": 1.0, "pruned_s": 2.0, "tokens": 8}])
def test_what_was_not_timed_or_by_an_earlier_version_is_not_judged(section: Any) -> None:
    assert describe_slowness(section, 1) is None
