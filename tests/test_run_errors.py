"""What a person can get wrong, and what can go wrong around them: a clear message, and nothing half-written."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import Listener
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from bonsai_core import (
    BonsaiError,
    DenseTokens,
    Family,
    Metric,
    Prior,
    Registry,
    RunConfig,
    SiteView,
    TokenMetric,
    WeightPrior,
    hookimpl,
    register_checkpoints,
    resume,
    run,
    token_nll,
)
from bonsai_core.config import PluginChoice
from bonsai_core.engine.setup import open_job
from bonsai_core.events import Event, StageStarted, Warned
from bonsai_core.model.loading.parent import find_parent
from bonsai_core.settings.recipe_files import read_recipe
from bonsai_core.testing import PriorContract
from bonsai_core.testing.check import check

BONSAI = shutil.which("bonsai", path=str(Path(sys.executable).parent)) or "bonsai"
Refused = Callable[..., str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run"


@pytest.fixture
def refused(small_run: RunConfig, out: Path, registry: Registry) -> Refused:
    """The message with which changed settings are refused, before anything is written."""

    def message(**changes: Any) -> str:
        settings = {**small_run.model_dump(), "out": out, **changes}
        with pytest.raises(BonsaiError) as caught:
            run(RunConfig.from_mapping(settings, "settings"), registry=registry)
        assert not out.parent.exists()
        return str(caught.value)

    return message


def at(config: RunConfig, path: Path, **changes: Any) -> RunConfig:
    return config.model_copy(update={"out": path, **changes})


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": "wandda"}, ["no prior 'wandda'", "Did you mean 'wanda'?", "Available:", "activation"]),
        ({"estimator": "none-such"}, ["no estimator 'none-such'", "Available:", "ridge"]),
        ({"slicer": "lama"}, ["no slicer 'lama'", "Did you mean 'llama'?", "auto"]),
        ({"estimator": {"name": "ridge", "foldz": 3}}, ["'foldz'", "Did you mean 'folds'?", "alphas"]),
        ({"estimator": {"name": "ridge", "folds": "many"}}, ["estimator.folds", "'ridge'", "integer", "'many'"]),
        ({"estimator": {"name": "ridge", "folds": 1}}, ["estimator.folds", "greater than or equal to 2"]),
        ({"estimator": {"name": "ridge", "options": {"folds": 3}, "fold": 3}}, ["named 'options'", "'fold'"]),
        ({"estimator": {"name": "ridge", "alphas": [math.nan]}}, ["estimator.alphas", "finite"]),
        ({"round_fraction": 1e-320}, ["round_fraction", "greater than or equal to 0.0001"]),
        ({"sparsty": 0.2}, ["no setting 'sparsty'", "Did you mean 'sparsity'?"]),
        ({"sparsity": 0}, ["sparsity", "greater than 0", "got 0"]),
        ({"sparsity": 1}, ["sparsity", "less than 1"]),
        ({"sparsity": "half"}, ["sparsity", "number", "'half'"]),
        ({"submodels": 1}, ["submodels", "greater than or equal to 2"]),
        ({"sparsity": 0.999}, ["0.9990 cannot be reached", "--min-units 1", "at most"]),
        ({"min_units": 0, "shapes": "uniform"}, ["min_units 0 needs shapes free"]),
        ({"min_units": "attention=0", "shapes": "uniform"}, ["min_units 0 needs shapes free"]),
        ({"protect": "0", "shapes": "uniform"}, ["protect needs shapes free"]),
        ({"protect": "0,7"}, ["--protect 7", "layers 0 to 2"]),
        ({"protect": "0,one"}, ["protect", "valid integer"]),
        ({"max_fraction": "heads=0.5"}, ["max_fraction", "attention", "mlp"]),
        ({"max_fraction": 0.1}, ["cannot be reached", "--max-fraction 0.1"]),
        ({"shapes": "uniform", "round_to": 64, "sparsity": 0.5}, ["cannot be reached", "--shapes uniform", "at most"]),
        ({"device": "toaster"}, ["'toaster' cannot be used", "Available: cpu"]),
        ({"device": "meta"}, ["'meta' cannot be used", "Available: cpu"]),
        ({"device": "hpu"}, ["'hpu' cannot be used", "Available: cpu"]),
        ({"device": "cpu:999"}, ["'cpu:999' cannot be used", "Available: cpu"]),
        ({"samples": True}, ["samples takes numbers", "got True"]),
        ({"min_units": {"mlp": True}}, ["min_units takes numbers", "got {'mlp': True}"]),
        ({"estimator": {"name": "ridge", "folds": True}}, ["estimator 'ridge': folds takes numbers"]),
        ({"max_fraction": math.inf}, ["max_fraction", "finite"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_are_refused(refused: Refused, changes: dict[str, Any], words: list[str]) -> None:
    message = refused(**changes)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5: 3", "line 1: this name is not text"),
        ("sparsity: 2020-99-99", "month must be in 1..12"),
        ("seed: 1\nsparsity: 0.1\nseed: 2", "line 3: 'seed' is there twice"),
        ("units: &a [mlp]\nprotect: *a", "line 2: an alias"),
        ("seed: !!int ''", "line 1: a tag"),
        ("units: " + "[" * 30, "nested more than 20 levels deep"),
        ("seed: " + "9" * 5000, "limit"),
        ("seed: 1\n" * 10_000, "larger than 65,536 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_a_recipe_with_nonsense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(BonsaiError, match=message):
        read_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_recipe_that_is_not_a_file_is_refused_unread(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(BonsaiError, match=r"recipe\.yaml is not a file"):
        read_recipe(path)


def test_messages_repeat_little_of_what_they_are_about(registry: Registry) -> None:
    long = "x" * 1_000_000
    nested: Any = long
    for _ in range(40):
        nested = [nested] * 9  # as aliases would make it; written out, more than there is memory
    for values in (
        {long: 1},
        {"sparsity": long},
        {"units": [long] * 1000},
        {"prior": {"name": [nested]}},
        {"model": nested},
        {f"setting {number}": nested for number in range(100)},
    ):
        with pytest.raises(BonsaiError) as caught:
            RunConfig.from_mapping(values, "settings")
        assert len(str(caught.value)) < 10_000
    with pytest.raises(BonsaiError) as caught:
        registry.create("prior", PluginChoice(name="wanda", options={long: nested}))
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"min_units": "mlp=900"}, "mlp"), ({"round_to": 64}, "mlp"), ({"max_fraction": "attention=0.1"}, "attention")],
    ids=str,
)
def test_limits_that_let_nothing_of_a_kind_leave_are_told_of(
    small_run: RunConfig, registry: Registry, limits: dict[str, Any], kind: str
) -> None:
    events: list[Event] = []
    values = {**small_run.model_dump(), "sparsity": 0.05, **limits}
    open_job(RunConfig.from_mapping(values, "settings"), registry, events.append)
    warned = [event.text for event in events if isinstance(event, Warned)]
    assert [text for text in warned if f"No unit of the kind {kind} can leave with --units " in text]


@pytest.mark.parametrize("damage", ["weights", "config"])
def test_a_damaged_model_is_refused(refused: Refused, pico_directory: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(pico_directory, tmp_path / "model")
    if damage == "weights":
        os.truncate(tmp_path / "model" / "model.safetensors", 5_000)
    else:
        values = json.loads((pico_directory / "config.json").read_text())
        (tmp_path / "model" / "config.json").write_text(json.dumps({**values, "num_attention_heads": 5}))
    said = {"weights": "cannot be read: Error while deserializing header", "config": "Cannot load"}
    assert said[damage] in refused(model=str(tmp_path / "model"))


def test_a_model_type_that_transformers_lacks_stops_no_other_family() -> None:
    class Strange:
        @hookimpl
        def bonsai_slicers(self) -> list[Family]:
            return [Family(name="strange", model_types=("from-the-future",))]

    registry = Registry()
    registry.register(Strange(), "a test")
    register_checkpoints(registry)


def test_a_text_shorter_than_a_sequence_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A short text.\n\nIn two paragraphs.\n")
    message = refused(dataset=str(tmp_path / "short.txt"))
    assert "short.txt" in message
    assert "fewer than one sequence of 32" in message


def test_a_text_that_is_not_there_is_refused_with_the_near_name(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text("text")
    assert f"Did you mean '{tmp_path / 'novel.txt'}'?" in refused(dataset=str(tmp_path / "novle.txt"))


# Models


def test_a_model_that_is_not_there_is_refused(refused: Refused) -> None:
    assert "There is no model directory /nowhere/model" in refused(model="/nowhere/model")


def test_a_file_in_place_of_a_model_directory_is_refused(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert "give the directory" in refused(model=str(tmp_path / "model.safetensors"))


@pytest.fixture
def own_model(pico_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico_directory, tmp_path / "model"))


def test_a_model_without_configuration_is_refused(refused: Refused, own_model: Path) -> None:
    (own_model / "config.json").unlink()
    assert "no config.json" in refused(model=str(own_model))


def test_a_model_without_weights_is_refused(refused: Refused, own_model: Path) -> None:
    (own_model / "model.safetensors").unlink()
    assert "has no weights: there is no model.safetensors" in refused(model=str(own_model))


def test_pickled_weights_are_refused_unread(refused: Refused, own_model: Path) -> None:
    (own_model / "model.safetensors").rename(own_model / "pytorch_model.bin")
    message = refused(model=str(own_model))
    assert "pytorch_model.bin" in message
    assert "Convert them to safetensors" in message


def test_an_unsupported_architecture_is_refused_with_what_is_supported(refused: Refused, own_model: Path) -> None:
    (own_model / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    message = refused(model=str(own_model))
    assert "GPT2LMHeadModel (model type 'gpt2') is not supported" in message
    assert "llama" in message
    assert "bonsai_slicers" in message


# Run directories


def test_a_directory_with_a_run_in_it_is_not_written_to(small_run: RunConfig, finished: Path) -> None:
    with pytest.raises(BonsaiError, match=r"already holds a run. Continue it with: bonsai resume .*another --out"):
        run(at(small_run, finished))


def test_a_directory_with_other_files_is_not_written_to(small_run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(BonsaiError, match="not an empty directory; choose another --out"):
        run(at(small_run, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_a_place_where_no_directory_can_be_made_is_said(small_run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BonsaiError, match=r"Cannot make the run directory .*Not a directory"):
        run(at(small_run, tmp_path / "file" / "run"))


@pytest.fixture(scope="module")
def template(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    return run(at(small_run, tmp_path_factory.mktemp("runs") / "template", latency=False), registry=registry).directory


@pytest.fixture
def finished(template: Path, tmp_path: Path) -> Path:
    """A run directory of one's own to spoil."""
    return Path(shutil.copytree(template, tmp_path / "finished"))


def not_resumed(path: Path, registry: Registry) -> str:
    with pytest.raises(BonsaiError) as caught:
        resume(path, registry=registry)
    return str(caught.value)


def test_a_directory_without_a_run_is_not_resumed(finished: Path, registry: Registry) -> None:
    message = not_resumed(finished.parent / "finnished", registry)
    assert "holds no run" in message
    assert "Runs beside it: finished." in message


def test_a_changed_configuration_is_not_resumed(finished: Path, registry: Registry) -> None:
    config = finished / "config.yaml"
    config.write_text(config.read_text().replace("sparsity: 0.3", "sparsity: 0.4"))
    assert "sparsity was 0.3, is 0.4" in not_resumed(finished, registry)


def test_a_configuration_that_is_none_is_not_resumed(finished: Path, registry: Registry) -> None:
    (finished / "config.yaml").write_text("sparsity: [")
    assert "config.yaml cannot be read as YAML" in not_resumed(finished, registry)


def test_a_changed_text_is_not_resumed(small_run: RunConfig, out: Path, tmp_path: Path, registry: Registry) -> None:
    text = Path(shutil.copy(small_run.dataset, tmp_path / "text.txt"))
    run(at(small_run, out, dataset=str(text), latency=False), registry=registry)
    text.write_text("Another beginning. " + text.read_text(encoding="utf-8"), encoding="utf-8")
    assert "The calibration of this run has changed" in not_resumed(out, registry)


def test_changed_weights_are_not_resumed(small_run: RunConfig, out: Path, own_model: Path, registry: Registry) -> None:
    run(at(small_run, out, model=str(own_model), latency=False), registry=registry)
    weights = load_file(own_model / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, own_model / "model.safetensors", metadata={"format": "pt"})
    assert "its weights are not those the run started with" in not_resumed(out, registry)


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + b"\xff" * 4096], ids=["foreign", "torn"])
def test_a_damaged_journal_is_not_resumed(finished: Path, damage: bytes, registry: Registry) -> None:
    (finished / "journal.sqlite").write_bytes(damage)
    assert "journal.sqlite is damaged" in not_resumed(finished, registry)


def test_arrays_that_are_not_what_was_journaled_are_not_used(finished: Path, registry: Registry) -> None:
    arrays = finished / "round-002" / "selection.npz"
    shutil.copy(finished / "round-001" / "selection.npz", arrays)
    assert "selection.npz is not what the journal recorded" in not_resumed(finished, registry)
    arrays.unlink()
    assert "Cannot read" in not_resumed(finished, registry)


def test_two_processes_never_work_on_one_run(finished: Path, registry: Registry) -> None:
    hold = (
        "import sys; from pathlib import Path; from bonsai_core.rundir import RunDirectory\n"
        "with RunDirectory.open(Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(finished)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert "Another process is working on" in not_resumed(finished, registry)
        other.kill()
    assert resume(finished, registry=registry).directory == finished


# Measurements that are not finite


class FlakyPlugin:
    """Offers the metric `flaky`, which is not finite at every n-th sub-model."""

    def __init__(self, every: int) -> None:
        calls = itertools.count(1)

        class Flaky(TokenMetric):
            """Perplexity that breaks down now and then."""

            name: ClassVar[str] = "flaky"

            def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
                return token_nll(logits, targets)

            def value(self, mean: float) -> float:
                return math.nan if next(calls) % every == 0 else mean

            def utility(self, value: float) -> float:
                return -value

        self._metric = Flaky
        self.warnings: list[str] = []

    @hookimpl
    def bonsai_metrics(self) -> list[type[Metric]]:
        return [self._metric]

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.text)


def with_flaky_metric(every: int) -> tuple[Registry, FlakyPlugin]:
    registry, plugin = Registry(), FlakyPlugin(every)
    registry.register(plugin, "the test")
    return registry, plugin


def flaky(config: RunConfig, path: Path) -> RunConfig:
    return RunConfig.from_mapping({**config.model_dump(), "out": path, "metric": "flaky", "submodels": 8}, "settings")


def test_a_submodel_that_breaks_down_is_left_out_and_counted(small_run: RunConfig, out: Path) -> None:
    registry, plugin = with_flaky_metric(every=8)
    report = run(flaky(small_run, out), registry=registry).report
    assert [row["dropped_submodels"] for row in report["rounds"]] == [1, 1]
    assert "1 of 8 sub-models gave no finite flaky and were left out." in plugin.warnings


def test_a_round_in_which_most_break_down_ends_the_run(small_run: RunConfig, out: Path) -> None:
    registry, _ = with_flaky_metric(every=1)
    with pytest.raises(BonsaiError, match=r"'flaky' was not finite for 8 of 8 sub-models. Try --dtype float32"):
        run(flaky(small_run, out), registry=registry)


# Room on disk


def test_a_result_that_will_not_fit_is_refused_before_the_work(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_000, 1_000))
    message = refused()
    assert "Not enough room" in message
    assert "0 MB are free. Make room, or choose another --out." in message


class DiskFiller:
    """Fills a disk to the last byte when a stage begins."""

    def __init__(self, stage: str, filler: Path) -> None:
        self._stage, self._filler = stage, filler

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == self._stage:
            with self._filler.open("wb", buffering=0) as file:
                for size in (4096, 1):
                    while self._write(file, size):
                        pass

    def _write(self, file: Any, size: int) -> bool:
        try:
            return bool(file.write(b"\0" * size))
        except OSError:
            return False


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if not (
        sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    ):
        pytest.skip("mounting a small file system needs root on Linux")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("stage", ["evaluate", "prior", "measure", "select", "save"])
def test_a_disk_that_fills_up_stops_the_run_and_room_lets_it_go_on(
    small_run: RunConfig, stage: str, tiny_disk: Path, template: Path, registry: Registry
) -> None:
    filling = Registry()
    filling.register(DiskFiller(stage, tiny_disk / "filler"), "the disk filler")
    path = tiny_disk / "run"
    with pytest.raises(BonsaiError, match=rf"Cannot write .*(full|space).*make room.*bonsai resume {path}"):
        run(at(small_run, path, latency=False), registry=filling)
    (tiny_disk / "filler").unlink()
    assert (
        resume(path, registry=registry).report["rounds"] == json.loads((template / "report.json").read_text())["rounds"]
    )
    weights = Path("model", "model.safetensors")
    assert (path / weights).read_bytes() == (template / weights).read_bytes()


# Shapes


def test_uniform_shapes_end_as_a_stock_checkpoint(small_run: RunConfig, out: Path, registry: Registry) -> None:
    result = run(at(small_run, out, shapes="uniform", latency=False), registry=registry)
    config = json.loads((result.model_path / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert not {"auto_map", "per_layer_config"} & config.keys()
    model = LlamaForCausalLM.from_pretrained(result.model_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == result.report["parameters"]["pruned"]


# Ctrl-C


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to another process")
def test_ctrl_c_keeps_what_was_measured_and_says_how_to_go_on(
    small_run: RunConfig, out: Path, registry: Registry
) -> None:
    options = ["--model", small_run.model, "--dataset", small_run.dataset, "--submodels", "1000", "--samples", "2"]
    sizes = ["--sequence-length", "32", "--eval-sequence-length", "64", "--eval-samples", "2", "--sparsity", "0.05"]
    command = [BONSAI, "run", *options, *sizes, "--no-latency", "--out", str(out)]
    # A shell that starts these tests in the background makes them ignore the signal, and all that they start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heed}
    with subprocess.Popen(command, **pipes) as process:
        journal = out / "journal.sqlite"
        deadline = time.monotonic() + 60
        while not (journal.exists() and events(journal) > 5) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"Continue with: bonsai resume {out}" in shown
    assert "Traceback" not in shown + errors
    assert 5 < events(journal) < 1000
    assert resume(out, registry=registry).report["rounds"][0]["sparsity"] >= 0.05


def events(journal: Path) -> int:
    with closing(sqlite3.connect(journal)) as database:
        try:
            return int(database.execute("SELECT COUNT(*) FROM events").fetchone()[0])
        except sqlite3.OperationalError:  # not yet made
            return 0


def test_a_quantised_parent_is_refused(pico_directory: Path, registry: Registry, tmp_path: Path) -> None:
    shutil.copytree(pico_directory, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BonsaiError, match="quantised already"):
        find_parent(RunConfig(model=str(tmp_path / "model")), registry)


def test_a_configuration_without_a_model_type_is_an_error(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BonsaiError, match="Cannot load"):
        find_parent(RunConfig(model=str(tmp_path)), registry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": "layer", "search": 1, "search_samples": 4}, "--search swaps single units"),
        ({"units": "sublayer", "shapes": "uniform"}, "sublayer needs shapes free"),
        ({"units": "mlp,layer", "shapes": "uniform"}, "layer alone"),
        ({"units": "mlp,mlp"}, "each kind once"),
        ({"units": "attention,query"}, "not both"),
        ({"max_memory": "cpu=1GB"}, "device_map auto"),
    ],
)
def test_units_that_do_not_go_together_are_refused(
    small_run: RunConfig, registry: Registry, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    values = {**small_run.model_dump(), **settings, "out": tmp_path / "run"}
    with pytest.raises(BonsaiError, match=message):
        run(RunConfig.from_mapping(values, "settings"), registry=registry)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoiled", "fault"),
    [
        (lambda score: score.tolist(), r"it returned 'list', which is not a tensor"),
        (lambda score: score[None], r"it returned shape \(1, (\d+)\) instead of \(\1,\)"),
        (lambda score: -score, r"(\d+) of \1 are negative \(least -[\d.]+\)"),
        (lambda score: score / (torch.arange(len(score)) > 0), r"1 of \d+ are inf or NaN"),
    ],
)
def test_scores_that_cannot_be_used_are_refused_with_the_cause(
    small_run: RunConfig, registry: Registry, out: Path, spoiled: Callable[[Tensor], Any], fault: str
) -> None:
    class Odd(WeightPrior):
        name: ClassVar[str] = "odd"

        def score(self, site: SiteView) -> Any:
            return spoiled(site.weight.abs().sum(dim=(0, 2)) + 1)

    class Theirs:
        @hookimpl
        def bonsai_priors(self) -> list[type[Prior]]:
            return [Odd]

    config = small_run.model_copy(update={"prior": PluginChoice(name="odd"), "out": out})
    wanted = rf"'odd' must score \S+ with \d+ finite, non-negative numbers; {fault}\. See: .* --check prior/odd$"
    with registry.observed_by(Theirs(), "theirs"), pytest.raises(BonsaiError, match=wanted):
        run(config, registry=registry)
    failures = {outcome.law: outcome.failure for outcome in check(PriorContract, __name__, make=lambda case: Odd())}
    assert re.search(fault, failures["one finite non negative score per unit"] or "")


def test_the_version_of_a_plugins_package_is_recorded_and_another_is_warned_of(
    small_run: RunConfig, registry: Registry, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(WeightPrior):
        name: ClassVar[str] = "fails-at-first"
        fails: ClassVar[bool] = True

        def score(self, site: SiteView) -> Tensor:
            if self.fails:
                raise RuntimeError("at first")
            return site.weight.abs().sum(dim=(0, 2))

    class Theirs:
        @hookimpl
        def bonsai_priors(self) -> list[type[Prior]]:
            return [Fails]

    def install(version: str) -> None:
        metadata.write_text(f"Metadata-Version: 2.1\nName: theirs\nVersion: {version}\n")

    metadata = tmp_path / "theirs.dist-info" / "METADATA"
    metadata.parent.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    install("1.0")
    listener = Listener()
    config = small_run.model_copy(update={"prior": PluginChoice(name="fails-at-first"), "out": out})
    with registry.observed_by(Theirs(), "theirs (entry point)"), registry.observed_by(listener, "the test"):
        with pytest.raises(RuntimeError, match="at first"):
            run(config, registry=registry)
        install("1.1")
        Fails.fails = False
        result = resume(out, registry=registry)
    assert result.report["versions"]["theirs"] == "1.0"
    (warned,) = (event.text for event in listener.events if isinstance(event, Warned) and "resumed with" in event.text)
    assert "'theirs': '1.0'" in warned.partition("resumed with")[0]
    assert "'theirs': '1.1'" in warned.partition("resumed with")[2]
