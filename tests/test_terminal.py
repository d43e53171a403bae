"""What the command shows: the time left; progress for people, logs and programs; tables that fit; `bonsai watch`."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Photographer
from rich.console import Console, RenderableType

from bonsai_core import BonsaiError, Registry, RunConfig, run
from bonsai_core.cli.adaptation import adapt_view
from bonsai_core.cli.bench import bench_view
from bonsai_core.cli.evaluation import evaluation_view
from bonsai_core.cli.forecast import Forecast
from bonsai_core.cli.main import cli
from bonsai_core.cli.progress import RunLines, progress, write_json
from bonsai_core.cli.sweep import results_view
from bonsai_core.cli.tables import family_view, plugin_view, report_view, unit_view
from bonsai_core.cli.watching import sight, watched_directory
from bonsai_core.events import (
    Event,
    Journaled,
    PlannedStage,
    RoundFinished,
    RunStarted,
    Stage,
    StageStarted,
    SubmodelMeasured,
    TokensDone,
)
from bonsai_core.rundir import RunDirectory
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.results import Row
from bonsai_core.units import Site, UnitTable

STREAMS = sorted((Path(__file__).parent / "streams").glob("*.json"))


# The time left


def replayed(file: Path) -> tuple[float, Iterator[tuple[float, Event]]]:
    """The seconds of a recorded run, and its events with the second of each.

    They are of CPU time of the only thread: as on a machine that did nothing else.
    """
    recorded = json.loads(file.read_text(encoding="utf-8"))
    stages = tuple(PlannedStage(Stage(name), *rest) for name, *rest in recorded["stages"])

    def events() -> Iterator[tuple[float, Event]]:
        yield 0.0, RunStarted(Path("run"), "model", 3, 16, 0.3, 1, "transformers", stages=stages)
        for second, what, number in recorded["events"]:
            if what in ("tokens", "replayed"):
                yield second, TokensDone(number, replayed=what == "replayed")
            else:
                yield second, StageStarted(Stage(what), number, what)

    return recorded["seconds"], events()


def forecasts(file: Path, points: int = 200) -> Iterator[tuple[float, float | None, float]]:
    """(share of the time that has passed, seconds left by the forecast, seconds left in truth) of a recorded run."""
    seconds, events = replayed(file)
    now = 0.0
    forecast = Forecast(lambda: now)
    waiting = list(events)
    for point in range(points):
        moment = seconds * point / points
        while waiting and waiting[0][0] <= moment:
            now, event = waiting.pop(0)
            forecast.follow(event)
        now = moment
        yield point / points, forecast.left(), seconds - moment


@pytest.mark.parametrize("file", STREAMS, ids=lambda file: file.stem)
def test_after_a_tenth_the_time_left_is_right_within_20_percent(file: Path) -> None:
    """Or within 2 % of the whole time, where almost nothing is left; for single moments within 25 %."""
    seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
    wrong = []
    for share, left, truth in forecasts(file):
        if share >= 0.1:
            assert left is not None
            assert abs(left - truth) <= max(0.25 * truth, 0.02 * seconds), f"at {share:.0%}: {left:.1f} for {truth:.1f}"
            wrong += [share] * (abs(left - truth) > max(0.2 * truth, 0.02 * seconds))
    assert len(wrong) <= 2, wrong


def test_work_of_an_earlier_process_says_nothing_about_the_pace() -> None:
    now = 0.0
    forecast = Forecast(lambda: now)
    stages = [PlannedStage(Stage.PRIOR, 1, 100, 100, 0, ""), PlannedStage(Stage.PRIOR, 2, 100, 100, 0, "")]
    forecast.follow(RunStarted(Path("run"), "model", 2, 0, 0.3, 200, "", stages=tuple(stages)))
    forecast.follow(StageStarted(Stage.PRIOR, 1, "prior"))
    forecast.follow(TokensDone(100, replayed=True))
    now = 0.5
    assert forecast.left() is None
    forecast.follow(StageStarted(Stage.PRIOR, 2, "prior"))
    now = 10.5
    forecast.follow(TokensDone(50))
    assert forecast.left() == pytest.approx(10)


def test_a_stage_that_nothing_counts_takes_what_its_work_does() -> None:
    now = 0.0
    forecast = Forecast(lambda: now)
    stages = [PlannedStage(Stage.PRIOR, 1, 100, 100, 0, ""), PlannedStage(Stage.SAVE, 0, 50, 0, 3, "")]
    forecast.follow(RunStarted(Path("run"), "model", 2, 0, 0.3, 200, "", stages=tuple(stages)))
    forecast.follow(StageStarted(Stage.PRIOR, 1, "prior"))
    now = 10.0
    forecast.follow(TokensDone(100))
    assert forecast.left() == pytest.approx(5 + 3)
    forecast.follow(StageStarted(Stage.SAVE, 0, "checkpoint"))
    now = 12.0
    assert forecast.left() == pytest.approx(6)
    now = 60.0
    assert forecast.left() == 0


# What is shown while a run goes on


@pytest.fixture(scope="module")
def views(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RenderableType]:
    """Everything that a command prints, of small numbers and of large ones."""
    registry, out = Registry(), tmp_path_factory.mktemp("runs") / "run"
    config = small_run.model_copy(update={"out": out, "eval_rounds": True})
    report = dict(run(config, registry=registry).report)
    sites = tuple(Site(f"model.layers.{n}.mlp", n, "mlp", 28_672 * n, 28_672, 24_576, 1) for n in range(3))
    table = UnitTable(sites, 68_452_352_000, 70_553_706_496)
    return {
        "report": report_view(report, out),
        "large report": report_view(enlarged(report), Path("runs/Llama-3.1-70B-Instruct-50-percent")),
        "adaptation": adapt_view(enlarged(ADAPTED), Path("runs/Llama-3.1-70B-Instruct-50-percent/adapted")),
        "evaluation": evaluation_view(enlarged(evaluated(2))),
        "evaluation of five": evaluation_view(enlarged(evaluated(5))),
        "speed": bench_view(enlarged(timed(4))),
        "sweep": results_view(swept()),
        "units": unit_view(table),
        "plugins": plugin_view(registry, None),
        "families": family_view(registry.families()),
    }


def enlarged(value: Any, name: str = "") -> Any:
    """A report with numbers as of a large model on a slow machine."""
    if isinstance(value, Mapping):
        return {key: enlarged(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [enlarged(item, name) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float) or name in ("sequence_length", "windows"):
        return value
    if isinstance(value, int):
        return value * 1_000_003 if value > 10_000 else value * 13
    return value * 123.4 if value > 1.5 else value


ADAPTED = {
    "perplexity": {"before": 1234.5, "after": 12.3, "teacher": 11.1},
    "evaluation": {
        "name": "/data/texts/wikitext-2-raw-v1/test-00000-of-00001.parquet",
        "windows": 64,
        "sequence_length": 4096,
    },
    "losses": [{"loss": 3.0 + n % 7, "lm": 1.5, "kl": 1.5, "hidden": 0.1} for n in range(500)],
    "parameters": {"trained": 70_000, "all": 70_000},
    "steps": 12_000,
    "tokens": 123_456,
    "epochs": 1.25,
    "seconds": {"teacher": 1234.0, "train": 12345.0, "evaluate": 12.0, "save": 12.0, "verify": 12.0},
    "memory": {"peak_bytes": 80_000_000},
    "verified": {"skipped": "the model was measured in 4bit, and what is saved is in full precision"},
}


def evaluated(models: int) -> dict[str, Any]:
    """Results of `bonsai eval`."""
    accuracy = {
        "questions": 1267,
        "accuracy": 0.5512,
        "accuracy_stderr": 0.0123,
        "accuracy_norm": 0.6,
        "accuracy_norm_stderr": 0.01,
    }
    change = {
        "accuracy_change": -0.1,
        "accuracy_change_stderr": 0.01,
        "accuracy_norm_change": 0.1,
        "accuracy_norm_change_stderr": 0.01,
    }
    spread = {"low": 0.01234, "high": 0.0234}
    speed = {
        **{f"{phase}_s": 0.0123 for phase in ("prefill", "decode")},
        **{f"{phase}_spread_s": spread for phase in ("prefill", "decode")},
        **{f"{phase}_tokens_per_s": 12345.6 for phase in ("prefill", "decode")},
    }
    rows = [
        {
            "model": f"runs/Meta-Llama-3.1-70B-Instruct-pruned-{number}",
            "dense": number == 0,
            "perplexity": 12.34,
            "parameters": 70_553,
            "weight_bytes": 141_107,
            "tasks": {"winogrande": {**accuracy, **(change if number else {})}},
            "lm_eval": {"arc_challenge": {"acc,none": 0.51234, "acc_stderr,none": 0.0123}},
            "speed": {"1": speed, "16": None},
            "memory": {"1": 141_107_000, "16": None},
        }
        for number in range(models)
    ]
    text = {"name": "wikitext", "windows": 64, "sequence_length": 4096}
    return {"models": rows, "text": text, "device": "cuda:0", "tasks": {"winogrande": {}}, "taking_turns": True}


def timed(models: int) -> dict[str, Any]:
    """Results of `bonsai bench`."""
    spread = {"median": 12.345, "low": 11.234, "high": 13.456}
    times = {"prefill_spread_s": spread, "decode_spread_s": spread, "speedup": {"prefill": spread, "decode": spread}}
    rows = [{"model": f"runs/Meta-Llama-3.1-70B-Instruct-{n}", "dense": n == 0, **times} for n in range(models)]
    row = {"runtime": "transformers 5.24.0", "format": "checkpoint", "batch": 16, "prompt_tokens": 4096, "models": rows}
    settings = {"threads": 16, "repeats": 7, "new_tokens": 32}
    return {"results": [row], "settings": settings, "device": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16"}


def swept() -> Results:
    """Results of `bonsai sweep`."""
    rows = [
        Row(
            "least_squares without the antithetic sampler",
            {"sparsity": 0.5, "submodels": submodels},
            seed,
            "directory",
            sparsity=0.50123,
            perplexity=12345.67,
            adapted_perplexity=1234.5,
            dense_perplexity=12.345,
            weight_mb=141_107.4,
            parameters=70_553_706_496,
            speedup=1.234,
            prune_s=123_456.7,
            kendall_tau=0.987,
        )
        for submodels in (80, 2000)
        for seed in range(3)
    ]
    return Results("Samples", "", "bonsai sweep", "2026-11-28", {"gpu": None}, {}, ["llama"], ["text"], [0, 1, 2], rows)


def drawn(view: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as shown:
        console.print(view)
    return shown.get()


def numbers(text: str) -> set[str]:
    return set(re.findall(r"[\d,.]*\d%?", text))


VIEWS = ["report", "large report", "adaptation", "evaluation", "evaluation of five", "speed"]
VIEWS += ["sweep", "units", "plugins", "families"]


@pytest.mark.parametrize("name", VIEWS)
def test_at_80_columns_nothing_is_cut(views: dict[str, RenderableType], name: str) -> None:
    narrow, wide = drawn(views[name], 80), drawn(views[name], 1000)
    assert "\u2026" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert numbers(wide) <= numbers(narrow)  # none is broken into lines either
    letters = [re.sub(r"\W", "", text) for text in (narrow, wide)]
    assert set(letters[1]) == set(letters[0])


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_narrower_and_wider_terminals_stay_sane(views: dict[str, RenderableType], width: int) -> None:
    for view in views.values():
        assert "\u2026" not in drawn(view, width)


@pytest.fixture
def busy() -> RunLines:
    """The lines of a run in the middle of its last round."""
    lines = RunLines()
    stages = (PlannedStage(Stage.MEASURE, 10, 1000, 1000, 0, ""),)
    lines.follow(RunStarted(Path("run"), "model", 10, 2000, 0.5, 1000, "transformers", stages=stages))
    lines.follow(RoundFinished(9, 0.4501, 0.91, 123_456, 12.34, 0.646, 1.234))
    lines.follow(StageStarted(Stage.MEASURE, 10, "2000 sub-models by kl"))
    time.sleep(0.01)
    lines.follow(TokensDone(500))
    lines.follow(SubmodelMeasured(10, 1998, 2000, "kl", 0.12345))
    return lines


def test_the_live_lines_say_stage_submodel_memory_result_and_time_left(busy: RunLines) -> None:
    bar, doing, result = drawn(busy(), 80).splitlines()
    assert re.search(r" \d+%  about 0 s left, memory [\d,]+ MB", bar)
    assert doing.strip() == "round 10 of 10: sub-model 1,999 of 2,000, kl 0.1235"
    assert result.strip() == "so far: sparsity 45.01%, KL held-out 0.646, guard 1.234, perplexity 12.34"


def test_long_names_do_not_make_the_live_lines_wider(busy: RunLines) -> None:
    busy.follow(StageStarted(Stage.EVALUATE, 10, "\x1b[31m" + "runs/a-very-long-name " * 20))
    assert len(drawn(busy(), 80).splitlines()) == 3
    assert len(drawn(busy(), 40).splitlines()) == 3
    assert "\x1b" not in drawn(busy(), 80)


def test_the_bar_never_goes_back(busy: RunLines) -> None:
    def share() -> float:
        found = re.search(r"(\d+)%", drawn(busy(), 80))
        assert found
        return int(found[1])

    before = share()
    time.sleep(0.2)  # nothing happens, so the work seems to take longer
    assert share() >= before


# For logs and for programs


def command(*words: str | Path, code: int = 0, **environment: str) -> Result:
    done = CliRunner(env={"COLUMNS": "80", **environment}).invoke(cli, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def recipe(small_run: RunConfig, tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(small_run.to_yaml())
    return file


def test_what_is_not_a_terminal_gets_lines_without_control_codes(recipe: Path, tmp_path: Path) -> None:
    shown = command("run", "--config", recipe, "--out", tmp_path / "run").stdout
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert re.search(r"^\[0:00:\d\d\] round 2 of 2: 4 sub-models by kl$", shown, re.MULTILINE)
    assert re.search(r"^round 2 of 2: \d+ units removed", shown, re.MULTILINE)


def test_quiet_says_only_where_the_result_is(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = command("run", "--config", recipe, "--out", out, "--quiet")
    assert done.stdout == f"checkpoint {out / 'model'}; report {out / 'report.json'}\n"
    again = command("resume", out, "-q")
    assert again.stdout == done.stdout
    assert command("resume", out).stdout.startswith(f"Continuing {out}.\n")


def test_every_event_is_a_line_of_json(recipe: Path, tmp_path: Path, small_run: RunConfig) -> None:
    out = tmp_path / "run"
    rows = [
        json.loads(line)
        for line in command("run", "--config", recipe, "--out", out, "--json-lines").stdout.splitlines()
    ]
    started = next(row for row in rows if row["event"] == "RunStarted")
    assert started["directory"] == str(out)
    assert started["stages"][0]["stage"] == "evaluate"
    measured = [row for row in rows if row["event"] == "SubmodelMeasured"]
    assert [(row["round"], row["index"]) for row in measured] == [(r, i) for r in (1, 2) for i in range(4)]
    tokens = sum(row["tokens"] for row in rows if row["event"] == "TokensDone")
    assert tokens == started["forward_tokens"]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    last = {name: value for name, value in rows[-1].items() if name != "time"}
    wanted = {
        "event": "Result",
        "directory": str(out),
        "checkpoint": str(out / "model"),
        "report": str(out / "report.json"),
    }
    assert last == wanted
    sizes = ["--eval-samples", "2", "--eval-sequence-length", "64", "--dataset", str(small_run.eval_dataset)]
    rows = [json.loads(line) for line in command("eval", out, *sizes, "--json-lines").stdout.splitlines()]
    assert rows[0]["event"] == "EvaluationStarted"
    assert [model["dense"] for model in rows[-1]["models"]] == [True, False]


# Watching


@pytest.fixture(scope="module")
def photographs(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of a run directory after every event of its journal, by its number, and at the end."""
    folder = tmp_path_factory.mktemp("photographs")
    registry, out = Registry(), folder / "run"
    copies = Photographer(out, lambda e: folder / str(e.count) if isinstance(e, Journaled) else None)
    with registry.observed_by(copies, "photographer"):
        run(small_run.model_copy(update={"out": out}), registry=registry)
    return folder


def test_watching_tells_how_far_a_run_is_from_start_to_end(photographs: Path) -> None:
    counts = sorted(int(path.name) for path in photographs.iterdir() if path.name.isdigit())
    directories = [watched_directory(photographs / str(count)) for count in counts]
    told = [sight(directory, directory.last_change()) for directory in directories]
    assert told[0].left_s is None
    assert any(seen.doing == "round 2 of 2: sub-models, 0 of 4" for seen in told)
    assert any(seen.doing == "round 2 of 2: repair" for seen in told)
    assert re.fullmatch(r"so far: sparsity 3\d\.\d+%, KL held-out .*, guard .*", told[-1].result)
    assert all(seen.left_s is not None for seen in told[len(told) // 2 :])
    spent = [seen.spent_s for seen in told]
    assert spent == sorted(spent)


def test_watching_a_finished_run_gives_its_result(photographs: Path) -> None:
    shown = command("watch", photographs / "run").stdout
    assert "run is finished: sparsity 3" in shown
    assert f"bonsai report {photographs / 'run'}" in shown


def test_a_run_that_nobody_works_on_is_said_to_have_stopped(photographs: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(photographs / "8", killed)
    long_ago = time.time() - 3600
    for path in killed.iterdir():
        os.utime(path, (long_ago, long_ago))
    before = {path.name: path.read_bytes() for path in killed.iterdir() if path.is_file() and "-shm" not in path.name}
    shown = command("watch", killed, code=1).stdout
    assert f"No process works on {killed}. It stopped 60 min ago" in shown
    assert f"bonsai resume {killed}" in shown
    assert command("watch", killed, "--once", code=1).stdout == shown
    after = {path.name: path.read_bytes() for path in killed.iterdir() if path.is_file() and "-shm" not in path.name}
    assert before == after


def test_while_a_process_works_on_a_run_it_can_be_watched(photographs: Path, tmp_path: Path) -> None:
    works = tmp_path / "works"
    shutil.copytree(max(photographs.glob("[0-9]*"), key=lambda path: int(path.name)), works)
    long_ago = time.time() - 3600
    for path in works.iterdir():
        os.utime(path, (long_ago, long_ago))
    directory = RunDirectory.open(works)
    with directory.reopen(lambda event: None) as journal:
        shown = command("watch", works, "--once").stdout
        assert re.search(r", \d+% done, about .* left, last news", shown)
        journal.append("round-9/anything", {})  # the watching locks nobody out


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("setpriv"), reason="needs setpriv to be nobody special")
def test_what_may_only_be_read_does_not_run_for_ever(photographs: Path, tmp_path: Path) -> None:
    looks = """
from pathlib import Path
from sys import argv
from bonsai_core.cli.watching import sight, watched_directory
directory = watched_directory(Path(argv[1]))
changed = directory.last_change()
print([sight(directory, changed + seconds).state for seconds in (1, 60, 3600)], directory.is_locked())
"""
    shutil.copy(photographs / "8" / "config.yaml", tmp_path)
    (tmp_path / ".lock").touch(0o444)
    bound = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*bound, sys.executable, "-c", looks, tmp_path], capture_output=True, text=True)
    assert done.stdout == "['running', 'running', 'unknown'] None\n", done.stderr


def test_watching_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BonsaiError, match=r"holds no run.*a run writes it once the model is loaded"):
        command("watch", tmp_path)


def test_json_has_no_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    write_json("StepDone", losses={"loss": float("nan"), "kl": 0.5}, all=(float("inf"), 1), at=Path("run"))
    row = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (row["losses"], row["all"], row["at"]) == ({"loss": None, "kl": 0.5}, [None, 1], "run")


def test_the_console_decides_how_progress_is_shown() -> None:
    shown = {type(progress(Console(force_terminal=terminal), mode)).__name__ for terminal, mode in MODES}
    assert shown == {"LiveLines", "PlainLines", "Quiet", "JsonLines"}


MODES: list[tuple[bool, Any]] = [(True, None), (False, None), (True, "quiet"), (True, "json")]
