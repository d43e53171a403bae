"""`bonsai bench`: models taking turns in runtimes; what is not there, or cannot be taken, stops nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from rich.console import Console

import bonsai_core
from bonsai_core import BenchConfig, BonsaiError, Checkpoint, Exporter, Registry, RunConfig, bench, hookimpl
from bonsai_core.cli.bench import bench_view
from bonsai_core.cli.main import cli
from bonsai_core.cli.settings import installed
from bonsai_core.runtimes.bench_plot import draw_bench

RUNNER = '''
import json, os

class Model:
    """Takes as long as its file says, and ever longer with each call of any model."""

    def __init__(self, path, options):
        self.contents = json.load(open(path))
        if self.contents.get("broken"):
            raise ValueError("this file is broken")
        self.runtime = "fake 1.0"
        self.log = os.environ["FAKE_LOG"]
        self.note("options", options)

    def note(self, *words):
        with open(self.log, "a") as log:
            log.write(json.dumps([self.contents["name"], *words]) + "\\n")

    def time(self, batch, prompt_tokens, new_tokens):
        if self.contents.get("dies"):
            os._exit(9)
        if batch * prompt_tokens > 1000:
            raise MemoryError("too many tokens")
        calls = sum("time" in line for line in open(self.log))
        self.note("time", batch, prompt_tokens, new_tokens)
        slower = 1 + calls // 2
        return slower * self.contents["work"] * batch * prompt_tokens, slower * self.contents["work"]
'''


class Fake(Exporter):
    """Files that say how long the model takes."""

    name: ClassVar[str] = "fake"
    runtime: ClassVar[str] = "fake"
    variant: ClassVar[str] = "quality"
    suffix: ClassVar[str] = ".fake"
    quality: str = "full"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return None

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        work = sum(layer["intermediate_size"] for layer in checkpoint.layers) * (0.5 if self.quality == "low" else 1.0)
        name = ("dense" if checkpoint.stock else "pruned") + (" low" if self.quality == "low" else "")
        out.write_text(json.dumps({"name": name, "work": work}))

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        return []


class Picky(Fake):
    """The same for stock checkpoints alone."""

    name: ClassVar[str] = "picky"
    runtime: ClassVar[str] = "picky"

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return None if checkpoint.stock else "Its layers differ in width."


class Absent(Fake):
    """The same for a runtime that is nowhere."""

    name: ClassVar[str] = "absent"
    runtime: ClassVar[str] = "absent"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Offers the formats of runtimes that take as long as a file says."""
    folder = tmp_path_factory.mktemp("runners")
    (folder / "fake.py").write_text(RUNNER)
    (folder / "absent.py").write_text("import no_such_runtime\n")
    Fake.runner = Picky.runner = folder / "fake.py"
    Absent.runner = folder / "absent.py"

    class Plugin:
        @hookimpl
        def bonsai_exporters(self) -> list[type[Exporter]]:
            return [Fake, Picky, Absent]

    return Plugin()


@pytest.fixture(scope="module")
def fakes(plugin: object) -> Registry:
    registry = Registry()
    registry.register(plugin, "the tests")
    return registry


@pytest.fixture(scope="module")
def pruned(small_run: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("runs") / "free"
    changes = {"out": out, "latency": False}
    return str(bonsai_core.run(small_run.model_copy(update=changes), registry=registry).directory)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(path))
    path.touch()
    return path


def timed(registry: Registry, models: list[str], **settings: Any) -> tuple[dict[str, Any], list[str], list[float]]:
    notes: list[str] = []
    shares: list[float] = []
    given = {"runtime": "fake", "batches": "2", "prompt_tokens": "8", "repeats": 3, "device": "cpu"} | settings
    config = BenchConfig.from_mapping({"models": models, **given}, "settings")
    found = bench(config, registry=registry, warn=notes.append, progress=lambda what, share: shares.append(share))
    return found, [note for note in notes if "busy (load" not in note], shares


def test_models_take_turns_and_ratios_are_of_the_same_turn(fakes: Registry, pruned: str, log: Path) -> None:
    found, notes, shares = timed(fakes, [pruned], new_tokens=5)
    calls = [row for row in map(json.loads, log.read_text().splitlines()) if row[1] == "time"]
    assert [name for name, *_ in calls] == ["dense", "pruned", "pruned", "dense"] * 2
    assert {tuple(row[2:]) for row in calls} == {(2, 8, 5)}
    assert notes == []
    assert shares == sorted(shares)
    assert 0.8 < shares[-1] < 1.0
    ((dense, small),) = (row["models"] for row in found["results"])
    files = [json.loads(line)[0] for line in log.read_text().splitlines()[:2]]
    assert files == ["dense", "pruned"]
    assert dense["dense"]
    assert "speedup" not in dense
    # The runtime slows down threefold while it is timed, and yet all turns give the same ratio.
    assert dense["prefill_spread_s"]["high"] > 1.2 * dense["prefill_spread_s"]["low"]
    ratio = small["speedup"]["prefill"]
    assert ratio["low"] == pytest.approx(ratio["high"])
    assert ratio["median"] == pytest.approx(dense["prefill_s"] / small["prefill_s"])
    assert ratio["median"] > 1.1
    assert dense["prefill_tokens_per_s"] == pytest.approx(16 / dense["prefill_s"])


def test_every_batch_meets_every_length_and_settings_reach_the_runtime(
    fakes: Registry, pruned: str, pico_directory: Path, log: Path
) -> None:
    settings = {"batches": "1,4", "prompt_tokens": "8,16", "threads": 3, "dtype": "bfloat16", "repeats": 1}
    found, _, _ = timed(fakes, [pruned], against=str(pico_directory), **settings)
    assert [(row["batch"], row["prompt_tokens"]) for row in found["results"]] == [(1, 8), (1, 16), (4, 8), (4, 16)]
    options = json.loads(log.read_text().splitlines()[0])[2]
    assert (options["threads"], options["dtype"], options["device"]) == (3, "bfloat16", "cpu")


def test_a_variant_of_the_format_is_another_row(fakes: Registry, pruned: str, log: Path) -> None:
    found, _, _ = timed(fakes, [pruned], runtime="fake,fake:low")
    assert [row["format"] for row in found["results"]] == ["fake", "fake:low"]
    loaded = [json.loads(line)[0] for line in log.read_text().splitlines() if "options" in line]
    assert loaded == ["dense", "pruned", "dense low", "pruned low"]
    with pytest.raises(BonsaiError, match="each runtime once"):
        timed(fakes, [pruned], runtime="fake,fake=/usr/bin/python")
    with pytest.raises(BonsaiError, match="hf has no variants"):
        timed(fakes, [pruned], runtime="transformers:q8_0")


def test_what_is_not_installed_or_not_taken_is_told_and_the_rest_goes_on(
    fakes: Registry, pruned: str, log: Path
) -> None:
    found, notes, shares = timed(fakes, [pruned], runtime="absent,picky,fake")
    assert [row["runtime"] for row in found["results"]] == ["fake 1.0"]
    missing, refused = notes
    assert "no_such_runtime is not installed there" in missing
    assert "--runtime absent=/path" in missing
    assert "Its layers differ in width" in refused
    assert found["notes"][-2:] == notes
    assert shares == sorted(shares)
    with pytest.raises(BonsaiError, match=r"Nothing could be timed(.|\n)*no_such_runtime"):
        timed(fakes, [pruned], runtime="absent")


def test_lengths_that_fail_are_left_out(fakes: Registry, pruned: str, log: Path) -> None:
    found, notes, _ = timed(fakes, [pruned], batches="1,200")
    assert [row["batch"] for row in found["results"]] == [1]
    assert "too many tokens" in notes[0]


def test_a_process_that_dies_stops_nothing_else(fakes: Registry, pruned: str, tmp_path: Path, log: Path) -> None:
    (tmp_path / "dense.fake").write_text(json.dumps({"name": "dense", "work": 2.0}))
    (tmp_path / "dying.fake").write_text(json.dumps({"name": "dying", "work": 1.0, "dies": True}))
    dense, dying = str(tmp_path / "dense.fake"), str(tmp_path / "dying.fake")
    match = r"Nothing could be timed(.|\n)*status 9(.|\n)*fake 1\.0 cannot time: the process had ended"
    with pytest.raises(BonsaiError, match=match):
        timed(fakes, [dying], against=dense, batches="1,2")


def test_files_are_timed_as_they_are(fakes: Registry, pruned: str, tmp_path: Path, log: Path) -> None:
    for name, work in (("dense", 4.0), ("small", 1.0), ("broken", 1.0)):
        (tmp_path / f"{name}.fake").write_text(json.dumps({"name": name, "work": work, "broken": name == "broken"}))
    dense, small, broken = (str(tmp_path / f"{name}.fake") for name in ("dense", "small", "broken"))
    found, notes, _ = timed(fakes, [small, broken], against=dense, runtime="fake,transformers")
    (row,) = found["results"]
    assert [model["model"] for model in row["models"]] == [dense, small]
    assert row["models"][1]["speedup"]["decode"]["median"] == pytest.approx(4.0)
    assert "this file is broken" in notes[0]
    assert "transformers takes a checkpoint" in notes[1]
    with pytest.raises(BonsaiError, match="--against names the dense model"):
        timed(fakes, [small])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtime": "vlmm"}, "no runtime or format 'vlmm'"),
        ({"runtime": ""}, "runtime"),
        ({"runtime": "plan"}, "cannot be timed"),
        ({"batches": "0"}, "batches.0: .*greater than 0"),
        ({"against": "no/such/model"}, "no/such/model"),
        ({"device": "toaster"}, "toaster"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_anything_is_loaded(
    fakes: Registry, pruned: str, log: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BonsaiError, match=message):
        timed(fakes, [pruned], **settings)
    assert log.read_text() == ""


def test_the_dense_model_alone_has_nothing_to_be_compared_with(fakes: Registry, pico_directory: Path) -> None:
    with pytest.raises(BonsaiError, match="Name a pruned one too"):
        timed(fakes, [str(pico_directory)], against=str(pico_directory))


def test_transformers_is_timed_in_processes_of_its_own(pruned: str, pico_directory: Path, tmp_path: Path) -> None:
    command = ["bench", pruned, "--batches", "1,2", "--prompt-tokens", "8", "--new-tokens", "3", "--repeats", "2"]
    command += ["--threads", "1", "--device", "cpu", "--out", str(tmp_path / "plots" / "speed"), "--json"]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert shown.exit_code == 0
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"speed.png", "speed.svg"}
    found = json.loads(shown.stdout)
    assert found["settings"]["threads"] == 1
    for row in found["results"]:
        assert row["runtime"].startswith("transformers 5")
        dense, small = row["models"]
        assert dense["model"] == str(pico_directory)
        assert 0 < small["speedup"]["decode"]["low"] <= small["speedup"]["decode"]["high"]


def test_the_command_shows_a_table(plugin: object, pruned: str, log: Path) -> None:
    command = ["bench", pruned, "--runtime", "fake", "--batches", "1,2", "--prompt-tokens", "8", "--repeats", "1"]
    with installed().observed_by(plugin, "the tests"):
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli, command, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "fake 1.0" in shown.stdout
    assert "prefill, ms" in shown.stdout
    assert "dense over pruned in the same turn" in shown.stdout


def test_the_same_results_give_the_same_picture_and_a_table(
    fakes: Registry, pruned: str, tmp_path: Path, log: Path
) -> None:
    found, _, _ = timed(fakes, [pruned], runtime="fake,fake:low", batches="1,4")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_bench(found, tmp_path / name / "plot")
    assert (tmp_path / "a" / "plot.svg").read_bytes() == (tmp_path / "b" / "plot.svg").read_bytes()
    console = Console(width=300)
    with console.capture() as shown:
        console.print(bench_view(found))
    assert shown.get().count("fake 1.0 (fake") == 2
    assert Path(pruned).name in shown.get()
