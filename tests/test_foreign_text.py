"""Text that is not ours: reports that a stranger made are checked, bounded and never steer terminal or page."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import OPTIONS, Pico, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bonsai_core import Registry, RunConfig, run
from bonsai_core.cli import main
from bonsai_core.cli.main import cli
from bonsai_core.display.printable import visible
from bonsai_core.errors import DamagedError
from bonsai_core.sweep.page import page
from bonsai_core.sweep.plots import draw_all
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.results import Row
from bonsai_core.sweep.spec import Bars
from bonsai_core.sweep.table import markdown

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\u202ee[red]f:smile:"
SHOWN = r"a\x1b]0;title\x07b\x1b[2Jc\rd\u202ee[red]f:smile:"
STEERING = "\x1b\x07\r\u202e"


@pytest.fixture(scope="module")
def whole(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(small_run.model_copy(update={"out": out, "latency": False}), registry=registry).directory


# Reports


def shown(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(cli, list(words))
    if done.exception:
        raise done.exception
    return done.stdout


@pytest.fixture
def report(whole: Path, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "config.yaml", tmp_path / "run" / "config.yaml")
    found: dict[str, Any] = json.loads((whole / "report.json").read_text())
    return found


def reported(tmp_path: Path, report: Any, *words: str) -> str:
    (tmp_path / "run" / "report.json").write_text(report if isinstance(report, str) else json.dumps(report))
    return shown("report", str(tmp_path / "run"), *words)


def without(report: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda r: [],
        lambda r: "{",
        lambda r: "[" * 100_000,
        lambda r: {},
        lambda r: without(r, "layers"),
        lambda r: {**r, "perplexity": {**r["perplexity"], "dense": "12"}},
        lambda r: {**r, "perplexity": {**r["perplexity"], "text": "novel"}},
        lambda r: {**r, "parameters": {"dense": 10**400, "pruned": 1}},
        lambda r: {**r, "sparsity": {"decoder": float("nan"), "whole_model": 0.1}},
        lambda r: {**r, "rounds": {"1": r["rounds"][0]}},
        lambda r: {**r, "rounds": [without(r["rounds"][0], "kendall_tau")]},
        lambda r: {**r, "layers": [{"mlp": {"kept": 9, "dense": 3}}]},
        lambda r: {**r, "layers": [{"mlp": 3}]},
        lambda r: {**r, "rounds": [{**r["rounds"][0], "divergence": {"guard": "much"}}]},
        lambda r: {**r, "latency": {"dense_s": 1.0}},
        lambda r: {**r, "seconds": {"prior": "long"}},
        lambda r: {**r, "config": None},
    ],
)
@pytest.mark.parametrize("words", [[], ["--json"]], ids=["table", "json"])
def test_a_malformed_report_is_called_damaged(
    tmp_path: Path, report: dict[str, Any], change: Any, words: list[str]
) -> None:
    with pytest.raises(DamagedError, match=r"report.json is damaged \(.*write it again with: bonsai resume"):
        reported(tmp_path, change(report), *words)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in it."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in places(inner)]


JUNK = st.one_of(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from([10**400, 2**63 - 1, -1, HOSTILE]),
)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_a_report_holds_is_shown_or_called_damaged(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.getbasetemp() / "whatever" / "run"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").touch()
    report = json.loads((whole / "report.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(report)))
        if data.draw(st.booleans()):
            container[key] = data.draw(JUNK)
        else:
            del container[key]
    try:
        found = reported(directory.parent, report)
    except DamagedError:
        return
    assert not set(STEERING) & set(found)


def test_names_in_a_report_do_not_steer_the_terminal(tmp_path: Path, report: dict[str, Any]) -> None:
    report["perplexity"]["text"]["name"] = HOSTILE
    report["seconds"][HOSTILE] = 5.0
    report["layers"] = [{HOSTILE: {"kept": 1, "dense": 2}}]
    found = reported(tmp_path, report)
    assert found.count(SHOWN) == 3
    assert not set(STEERING) & set(found)
    as_json = reported(tmp_path, json.dumps(report, ensure_ascii=False), "--json")
    assert not set(STEERING) & set(as_json)
    assert json.loads(as_json) == report


def test_names_in_an_adaptations_report_do_not_steer_the_terminal(tmp_path: Path) -> None:
    losses = {"step": 1, "loss": 1.0, "lm": 1.0, "kl": 0.0, "hidden": 0.0}
    found: dict[str, Any] = {
        "evaluation": {"name": HOSTILE, "windows": 2, "sequence_length": 64},
        "perplexity": {"teacher": 10.0, "before": 12.0, "after": None},
        "losses": [losses] * 5_000,
        "steps": 5_000,
        "tokens": 10,
        "epochs": 1.0,
        "parameters": {"all": 5, "trained": 2},
        "verified": {"loss": 1.0, "loaded": {HOSTILE: 1.0}},
        "memory": {"peak_bytes": 10},
        "seconds": {HOSTILE: 5.0},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "adapt.yaml").touch()
    text = reported(tmp_path, found)
    assert text.count(SHOWN) == 3
    assert not set(STEERING) & set(text)
    assert len(text) < 3000
    with pytest.raises(DamagedError, match=r"losses: List should have at least 1 item"):
        reported(tmp_path, {**found, "losses": []})


def test_an_error_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["bonsai", "report", HOSTILE])
    with pytest.raises(SystemExit):
        main()
    found = capsys.readouterr().err
    assert f"Error: {SHOWN} holds no run" in found
    assert not set(STEERING) & set(found)


@pytest.mark.skipif(sys.platform == "win32", reason="file names have no such characters there")
def test_names_of_models_and_directories_do_not_steer_the_terminal(
    small_run: RunConfig, pico_directory: Path, tmp_path: Path
) -> None:
    name = HOSTILE.replace("/", "")
    model = shutil.copytree(pico_directory, tmp_path / name)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(small_run.model_copy(update={"latency": False}).to_yaml())
    out = tmp_path / f"{name} out"
    found = shown("run", "--config", str(recipe), "--model", str(model), "--out", str(out), "--eval-samples", "500")
    found += shown("eval", str(out), "--dataset", str(small_run.eval_dataset), "--eval-samples", "1")
    assert found.count(SHOWN) >= 4
    assert not set(STEERING) & set(found)


def test_what_steers_is_spelled_out_and_other_text_is_not() -> None:
    assert visible("naïve 模型 №5 \\ [b] ½\n") == "naïve 模型 №5 \\ [b] ½\\n"
    assert visible("a\nb\tc\x9b\u2028", lines=True) == "a\nb\tc\\x9b\\u2028"
    assert visible("x" * 50, most=10) == "x" * 9 + "…"


def test_a_long_report_is_drawn_in_part_and_printed_in_full(tmp_path: Path, report: dict[str, Any]) -> None:
    report["rounds"] = report["rounds"][:1] * 3_000
    report["layers"] = report["layers"][:1] * 3_000
    report["layers"][5] = {f"kind {number}": {"kept": 1, "dense": 1} for number in range(500)}
    report["seconds"] = {f"stage {number}": 1.0 for number in range(500)}
    found = reported(tmp_path, report)
    assert "... 2,940 rounds between" in found
    assert "... 2,800 layers between ..." in found
    assert "other kinds of unit" in found
    assert "other stages" in found
    assert len(found) < 20_000
    assert json.loads(reported(tmp_path, report, "--json")) == report


@pytest.mark.parametrize("option", [{"mlp_only_layers": [0]}, {"mlp_only_layers": [], "decoder_sparse_step": 2}])
def test_a_mixture_with_some_dense_layers_is_shown(
    option: dict[str, Any],
    small_run: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    registry: Registry,
) -> None:
    monkeypatch.setitem(OPTIONS, "qwen2_moe", {**OPTIONS["qwen2_moe"], **option})
    model = saved(Pico("qwen2_moe", 2), tokenizer, tmp_path / "model")
    settings = {"model": str(model), "out": tmp_path / "run", "latency": False, "sparsity": 0.1}
    run(small_run.model_copy(update=settings), registry=registry)
    lines = {
        line.split()[1]: line[16:19] for line in shown("report", str(tmp_path / "run")).splitlines() if "kept" in line
    }
    dense = [True, False, False] if option["mlp_only_layers"] else [True, False, True]
    assert [bar != " " for bar in lines["mlp"]] == dense
    assert [bar == " " for bar in lines["experts"]] == dense
    assert " " not in lines["attention"]


# Sweeps


def results(arm: str) -> Results:
    rows = [Row(arm, {"sparsity": 0.1}, seed, "d", sparsity=0.1, perplexity=30.0 + seed) for seed in (0, 1)]
    rows.append(Row(arm, {"sparsity": 0.2}, 0, arm, error=arm))
    hardware = {"cpu": arm, "cores": 1, "gpu": arm}
    versions = dict.fromkeys(("bonsai-prune", "torch", "transformers"), arm)
    return Results(arm, arm, arm, "2026-01-01T00:00:00", hardware, versions, [arm], [arm], [0, 1], rows)


def test_names_in_a_sweep_are_text_on_its_pages(tmp_path: Path) -> None:
    found = results(f"<script>alert(1)</script> $x^$ --> {HOSTILE}")
    (svg,) = draw_all([Bars(kind="bars", y="perplexity")], found, tmp_path / "plots")
    written = page(found, [svg])
    assert "<script" not in written
    assert "&lt;script&gt;" in written
    assert SHOWN in written
    as_markdown = markdown(found)
    assert "| <script" not in as_markdown
    assert SHOWN in as_markdown
    assert not set(STEERING) & set(written + as_markdown)


def test_a_fault_of_ours_is_told_in_full_and_steers_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def fails() -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setitem(cli.commands, "fails", fails)
    monkeypatch.setattr(sys, "argv", ["bonsai", "fails"])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().err
    assert "RuntimeError: " in told
    assert "please report it" in told
    assert not set(STEERING) & set(told)
