"""Sweeps: what a file asks for, what they leave behind, and that they go on where they stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from test_cli import BONSAI, execute

from bonsai_core import BonsaiError, Registry, RunConfig, hookimpl
from bonsai_core.cli.main import cli
from bonsai_core.display.plotting import spread
from bonsai_core.events import Event, Journaled
from bonsai_core.sweep.expand import SweepRun, expand
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.record import Results, gather
from bonsai_core.sweep.results import Row, Stat, grouped
from bonsai_core.sweep.runner import run_sweep, state
from bonsai_core.sweep.spec import read_sweep
from bonsai_core.sweep.table import markdown

TIMES = ("prune_s", "speedup")


class Silent:
    """A listener that only counts what was computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def started(self, number: int, run: SweepRun) -> None:
        self.computed.append(run.name)

    def event(self, number: int, event: Event) -> None:
        pass

    def finished(self, number: int, outcome: Outcome) -> None:
        pass


class Interrupt:
    """What Ctrl-C does, once an event of the n-th run is in its journal."""

    def __init__(self, key: str, times: int) -> None:
        self._key = key
        self._left = times

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Journaled) and event.key == self._key:
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt


@pytest.fixture
def base(small_run: RunConfig) -> dict[str, Any]:
    """The settings of the small run that differ from the defaults."""
    values = small_run.model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in values.items() if name not in ("seed", "out")}


def write(folder: Path, **content: Any) -> Path:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"title": "A sweep", **content}, sort_keys=False))
    return file


def runs_of(file: Path, registry: Registry, overrides: Mapping[str, Any] | None = None) -> list[SweepRun]:
    return expand(read_sweep(file), file, registry, overrides or {})


def rows_of(directory: Path) -> list[dict[str, Any]]:
    rows = json.loads((directory / "results.json").read_text())["rows"]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


# What a file asks for


def test_arms_are_crossed_with_the_grid_and_the_seeds(tmp_path: Path, registry: Registry) -> None:
    file = write(
        tmp_path,
        base={"eval_samples": 12, "sparsity": 0.4},
        grid={"sparsity": [0.1, 0.2], "estimator": ["none", {"name": "ridge", "folds": 3}]},
        arms={"full": None, "One shot!": {"round_fraction": 1.0, "grid": {"sparsity": [0.3]}}, "as is": {"grid": {}}},
        seeds=[0, 7],
    )
    runs = runs_of(file, registry)
    assert [run.name for run in runs[:6]] == [
        "full_sparsity-0.1_estimator-none_seed-0",
        "full_sparsity-0.1_estimator-ridge-folds-3_seed-0",
        "full_sparsity-0.2_estimator-none_seed-0",
        "full_sparsity-0.2_estimator-ridge-folds-3_seed-0",
        "one-shot_sparsity-0.3_seed-0",
        "as-is_seed-0",
    ]
    assert [run.seed for run in runs] == [0] * 6 + [7] * 6
    assert [run.config.sparsity for run in runs[:6]] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.4]
    assert runs[1].config.estimator.options == {"folds": 3}
    assert [run.config.round_fraction for run in runs[4:6]] == [1.0, RunConfig().round_fraction]
    assert {run.config.eval_samples for run in runs} == {12}
    assert not any(run.config.latency for run in runs)


def test_names_are_unique_and_short_enough_for_every_disk(tmp_path: Path, registry: Registry) -> None:
    names = [run.name for run in runs_of(write(tmp_path, arms={"a b": {}, "a-b": {}, "x" * 300: {}}), registry)]
    assert len(set(names)) == 3
    assert max(map(len, names)) < 128
    assert names == [run.name for run in runs_of(tmp_path / "sweep.yaml", registry)]


def test_options_go_before_the_base_and_arms_before_them(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "recipe.yaml").write_text("sparsity: 0.3\nsamples: 5\nseed: 9\n")
    file = write(
        tmp_path, base={"config": "recipe.yaml", "samples": 6, "model": "a"}, arms={"x": {}, "y": {"model": "c"}}
    )
    first, second = runs_of(file, registry, {"model": "b"})
    assert (first.config.sparsity, first.config.samples, first.config.seed) == (0.3, 6, 0)
    assert (first.config.model, second.config.model) == ("b", "c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sedes": [0]}, "no key of a sweep 'sedes'. Did you mean 'seeds'?"),
        ({"seeds": [0, 0]}, "seeds lists 0 twice"),
        ({"seeds": [2**32]}, "seeds.0: Input should be less than"),
        ({"grid": {name: [*range(100)] for name in "abcdefgh"}}, "10,000,000,000,000,000 runs"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"base": {"seed": 1}}, "base sets seed, which a sweep sets itself: use the sweep's `seeds`"),
        ({"arms": {"x": {"grid": {"out": ["a"]}}}}, "the grid of arm 'x' sets out"),
        (
            {"base": {"sparsty": 0.1}},
            "default, seed 0: settings: There is no setting 'sparsty'. Did you mean 'sparsity'?",
        ),
        ({"arms": {"x": {}, "y": {"sparsity": 2}}}, "y, seed 0: settings: sparsity: Input should be less than 1"),
        (
            {"grid": {"prior": ["wanda", "wandering"]}},
            "default, prior wandering, seed 0: There is no prior 'wandering'",
        ),
        ({"arms": {"x": {"estimator": {"name": "ridge", "fold": 3}}}}, "x, seed 0: There is no option .* 'fold'"),
        ({"arms": {"x": {"slicer": "lama"}}}, "x, seed 0: There is no slicer 'lama'. Did you mean 'llama'?"),
        ({"base": {"config": "no-such-recipe"}}, "base: There is no recipe 'no-such-recipe'"),
        ({"plots": [{"kind": "lines", "x": "sparsity", "y": "perplexty"}]}, "no quantity 'perplexty'. Did you mean"),
        ({"plots": [{"kind": "lines", "x": "submodels", "y": "perplexity"}]}, "setting of the grid 'submodels'"),
        (
            {"plots": [{"kind": "bars", "y": "perplexity", "logy": True}]},
            "no key of a plot 'logy'. Did you mean 'log_y'",
        ),
        ({"plots": [{"kind": "pie", "y": "perplexity"}]}, "plots.0: .*'lines', 'bars', 'bubbles'"),
    ],
    ids=str,
)
def test_a_mistake_is_found_before_anything_runs(
    content: dict[str, Any], message: str, tmp_path: Path, registry: Registry
) -> None:
    with pytest.raises(BonsaiError, match=message):
        runs_of(write(tmp_path, **content), registry)


# What it leaves behind


@pytest.fixture(scope="module")
def swept(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep made by the command: two arms, two seeds, one arm that fails."""
    folder = tmp_path_factory.mktemp("sweeps")
    values = small_run.model_dump(mode="json", exclude_defaults=True)
    file = write(
        folder,
        about="What the regression brings.",
        base={**values, "model": "no-such-model"},
        arms={"full": {"eval_rounds": True}, "no <regression>": {"estimator": "none"}, "broken": {"model": "/nowhere"}},
        seeds=[5],
        plots=[
            {"kind": "lines", "x": "sparsity", "y": "perplexity", "title": "Rounds", "rounds": True},
            {"kind": "bars", "y": "perplexity", "log_y": True},
            {"kind": "bubbles", "x": "sparsity", "y": "perplexity", "size": "weight_mb"},
        ],
    )
    words = ["--out", str(folder / "out"), "--model", small_run.model, "--seeds", "0,1"]
    done = execute(BONSAI, "sweep", str(file), *words)
    (folder / "shown.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 1, done.stderr
    return folder


def test_a_failed_run_is_told_of_and_the_others_go_on(swept: Path) -> None:
    rows = rows_of(swept / "out")
    assert {row["arm"]: row["error"] is None for row in rows} == {
        "full": True,
        "no <regression>": True,
        "broken": False,
    }
    shown = (swept / "shown.txt").read_text()
    assert "run 3 of 6: broken, seed 0: failed: There is no model directory /nowhere" in shown
    assert "2 of 6 runs failed" in shown
    assert "Traceback" not in shown


def test_every_run_is_a_row_and_so_is_every_evaluated_round(swept: Path) -> None:
    found = json.loads((swept / "out" / "results.json").read_text())
    good = [row for row in found["rows"] if row["error"] is None]
    assert [(row["seed"], row["round"]) for row in good if row["arm"] == "full"] == [
        (seed, number) for seed in (0, 1) for number in (1, 2, None)
    ]
    assert [(row["seed"], row["round"]) for row in good if row["arm"] != "full"] == [(0, None), (1, None)]
    for row in good:
        report = json.loads((swept / "out" / row["directory"] / "report.json").read_text())
        if row["round"] is None:
            assert row["perplexity"] == report["perplexity"]["pruned"]
            assert row["parameters"] == report["parameters"]["pruned"]
        else:
            assert row["sparsity"] == report["rounds"][row["round"] - 1]["sparsity"]
    assert found["hardware"]["cores"] > 0
    assert {"torch", "transformers", "bonsai-prune"} <= found["versions"].keys()
    assert " sweep " in found["command"]


def test_the_table_is_shown_and_written_with_what_made_it(swept: Path) -> None:
    shown, text = (swept / "shown.txt").read_text(), (swept / "out" / "results.md").read_text()
    perplexities = [row["perplexity"] for row in rows_of(swept / "out") if row["arm"] == "full" and not row["round"]]
    mean = f"{sum(perplexities) / 2:,.2f} ± "
    assert mean in shown
    assert f"| full | {mean}" in text
    assert ", ".join(f"{value:,.2f}" for value in perplexities) in text
    assert "Seeds: 0, 1" in text
    assert "2 x 64 tokens" in text


def test_the_plots_and_the_page_need_nothing_else(swept: Path) -> None:
    plots = swept / "out" / "plots"
    assert {file.name for file in plots.iterdir()} == {
        f"{name}.{kind}" for name in ("1-lines", "2-bars", "3-bubbles") for kind in ("svg", "png")
    }
    page = (swept / "out" / "results.html").read_text()
    assert page.count("<svg") == 3
    assert "no &lt;regression&gt;" in page
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", page)


def test_the_pruned_checkpoints_are_not_kept_unless_asked_for(swept: Path) -> None:
    assert list((swept / "out").glob("*/report.json"))
    assert not list((swept / "out").glob("*/model"))


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    done = CliRunner().invoke(cli, ["sweep", str(swept / "sweep.yaml"), "--dry-run", "--seeds", "3"])
    assert done.exit_code == 0, done.output
    assert "no-regression_seed-3" in done.output
    assert "3 runs of A sweep, for runs/sweeps/sweep. Nothing was written." in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", ["0,", "a", "1,1", "-1", "9" * 5000])
def test_seeds_that_are_none_are_refused(swept: Path, seeds: str) -> None:
    done = CliRunner().invoke(cli, ["sweep", str(swept / "sweep.yaml"), "--dry-run", f"--seeds={seeds}"])
    assert isinstance(done.exception, BonsaiError)
    assert "write different whole numbers" in str(done.exception)


# Going on


def test_an_interrupted_sweep_computes_only_what_is_missing(
    tmp_path: Path, base: dict[str, Any], registry: Registry
) -> None:
    file = write(tmp_path, base=base, arms={"full": {}, "plain": {"estimator": "none"}}, seeds=[0, 1], keep_models=True)
    spec, runs = read_sweep(file), runs_of(file, registry)

    def results(directory: Path, registry: Registry) -> tuple[list[Row], list[str]]:
        listener = Silent()
        outcomes = run_sweep(runs, directory, registry, listener, keep_models=spec.keep_models)
        return list(gather(spec, outcomes, "").rows), listener.computed

    whole, computed = results(tmp_path / "whole", registry)
    assert computed == [run.name for run in runs]
    assert (tmp_path / "whole" / runs[0].name / "model" / "config.json").is_file()

    stopped = Registry()
    stopped.register(Interrupt("round-1/selection", times=3), "Ctrl-C")
    with pytest.raises(KeyboardInterrupt):
        results(tmp_path / "parts", stopped)
    finished = {path.parent.name for path in (tmp_path / "parts").glob("*/report.json")}
    assert finished == {runs[0].name, runs[1].name}
    again, computed = results(tmp_path / "parts", registry)
    assert computed == [runs[2].name, runs[3].name]
    assert [timeless(row) for row in again] == [timeless(row) for row in whole]


def timeless(row: Row) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name not in TIMES}


def test_adaptations_have_a_column_and_go_on_too(tmp_path: Path, base: dict[str, Any], registry: Registry) -> None:
    (tmp_path / "after.yaml").write_text("{method: full, steps: 3, batch_size: 4, sequence_length: 32, evaluations: 1}")
    adapted = {"adapt": str(tmp_path / "after.yaml")}
    file = write(tmp_path, base={**base, "estimator": "none"}, arms={"adapted": adapted, "plain": {}})
    spec, runs = read_sweep(file), runs_of(file, registry)

    def results(directory: Path, registry: Registry) -> tuple[Results, list[str]]:
        listener = Silent()
        outcomes = run_sweep(runs, directory, registry, listener, keep_models=False)
        return gather(spec, outcomes, ""), listener.computed

    whole, _ = results(tmp_path / "whole", registry)
    report = json.loads((tmp_path / "whole" / runs[0].name / "adapted" / "report.json").read_text())
    assert [row.adapted_perplexity for row in whole.rows] == [report["perplexity"]["after"], None]
    assert f"| {report['perplexity']['after']:,.2f} |" in markdown(whole)
    assert not list((tmp_path / "whole").rglob("model"))

    stopped = Registry()
    stopped.register(Interrupt("step-2", times=1), "Ctrl-C")
    with pytest.raises(KeyboardInterrupt):
        results(tmp_path / "parts", stopped)
    assert [state(each, tmp_path / "parts") for each in runs] == ["started", "to do"]
    again, computed = results(tmp_path / "parts", registry)
    assert computed == [each.name for each in runs]
    assert [timeless(row) for row in again.rows] == [timeless(row) for row in whole.rows]
    assert results(tmp_path / "parts", registry)[1] == []


def test_changed_settings_are_refused(tmp_path: Path, base: dict[str, Any], registry: Registry) -> None:
    def sweep(**settings: Any) -> None:
        runs = runs_of(write(tmp_path, base={**base, "estimator": "none", **settings}), registry)
        run_sweep(runs, tmp_path / "out", registry, Silent(), keep_models=False)

    sweep()
    sweep()
    with pytest.raises(BonsaiError, match=r"default_seed-0 holds a run with other settings .*sparsity was 0.3, is 0.4"):
        sweep(sparsity=0.4)


def test_another_process_is_kept_out(tmp_path: Path, registry: Registry) -> None:
    class Second(Silent):
        def started(self, number: int, run: SweepRun) -> None:
            with pytest.raises(BonsaiError, match="Another process is working on the sweep"):
                run_sweep(runs, tmp_path / "out", registry, Silent(), keep_models=False)
            self.computed.append(run.name)

    runs, listener = runs_of(write(tmp_path, base={"model": "/nowhere"}), registry), Second()
    run_sweep(runs, tmp_path / "out", registry, listener, keep_models=False)
    assert listener.computed


# Numbers


def test_a_seed_without_a_finite_perplexity_leaves_no_mean() -> None:
    assert Stat((1.0, 3.0)).mean == 2.0
    assert Stat((1.0, 3.0)).sd == pytest.approx(2**0.5)
    blown = Stat((1.0, None))
    assert (blown.mean, blown.sd, blown.low, blown.high) == (None, None, 1.0, 1.0)


def test_rows_are_gathered_by_arm_and_point() -> None:
    rows = [Row("a", {"sparsity": s}, seed, "d", error=None if seed else "no") for seed in (0, 1) for s in (0.1, 0.2)]
    assert [(str(group), len(group.rows), group.failed) for group in grouped(rows)] == [
        ("a, sparsity 0.1", 1, 1),
        ("a, sparsity 0.2", 1, 1),
    ]
    assert grouped([Row("a", {}, 0, "d", round=1), Row("a", {}, 0, "d")])[0].round is None


def test_runs_without_evaluated_rounds_are_drawn_by_their_ends() -> None:
    rows = [
        Row("rounds", {}, 0, "r", round=1, sparsity=0.1, perplexity=30.0),
        Row("rounds", {}, 0, "r", round=2, sparsity=0.2, perplexity=40.0),
        Row("rounds", {}, 0, "r", sparsity=0.2, perplexity=40.0),
        Row("one shot", {"sparsity": 0.1}, 0, "o", sparsity=0.1, perplexity=35.0),
        Row("one shot", {"sparsity": 0.2}, 0, "p", sparsity=0.2, perplexity=50.0),
    ]
    assert [(group.arm, group.round) for group in grouped(rows, rounds=True)] == [
        ("rounds", 1),
        ("rounds", 2),
        ("one shot", None),
        ("one shot", None),
    ]


def test_labels_move_apart_no_more_than_they_must() -> None:
    moved = [height + shift for height, shift in zip((0, 50, 51, 90), spread([0, 50, 51, 90], 10), strict=True)]
    assert moved == pytest.approx([0, 45.5, 55.5, 90])
