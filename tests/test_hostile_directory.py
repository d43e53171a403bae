"""Directories that were damaged, or that a stranger made: what is written stays inside, what is read is checked."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import StoppedError, Stopper
from hypothesis import given, settings
from hypothesis import strategies as st

from bonsai_core import BonsaiError, MeasurementCache, Registry, RunConfig, hookimpl, load_model, resume, run
from bonsai_core.adaptation.state import load_state, save_state
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.errors import DamagedError
from bonsai_core.events import Event, Journaled, Warned
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.passes import Passes
from bonsai_core.rundir import Journal, RunDirectory, held
from bonsai_core.rundir.files import atomic_folder
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.settings.recipe_files import read_recipe
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.runner import run_sweep

links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")


@pytest.fixture(scope="module")
def config(small_run: RunConfig) -> RunConfig:
    values = {**small_run.model_dump(), "latency": False, "prior": "obs", "compensator": "least_squares"}
    return RunConfig.from_mapping(values, "settings")


@pytest.fixture(scope="module")
def whole(config: RunConfig, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(config.model_copy(update={"out": out}), registry=registry).directory


@pytest.fixture(scope="module")
def stopped(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second round."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    stopping = Registry()
    stopping.register(Stopper(lambda event: isinstance(event, Journaled) and event.key == "round-2/prior"), "a test")
    with pytest.raises(StoppedError):
        run(config.model_copy(update={"out": out}), registry=stopping)
    return out


def weights(path: Path) -> bytes:
    return (path / "model" / "model.safetensors").read_bytes()


# Links


RUN_NAMES = [
    "config.yaml",
    "journal.sqlite",
    "journal.sqlite-wal",
    "report.json",
    "report.json.partial",
    "report.html",
    ".lock",
]
RUN_NAMES += ["model", ".model.partial", "round-001", "round-001/prior.npz", "scratch.partial", "adapted"]
ADAPT_NAMES = [
    "adapt.yaml",
    "journal.sqlite",
    "teacher",
    "teacher/windows-0.bin",
    "state.safetensors",
    "curve.svg",
    "model",
]


@links
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
@pytest.mark.parametrize("name", [*RUN_NAMES, *(f"{name} of an adaptation" for name in ADAPT_NAMES)])
def test_no_link_of_a_directory_is_followed(tmp_path: Path, name: str, target: str) -> None:
    name, _, adaptation = name.partition(" of an ")
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "run"
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "file").write_text("mine")
    (directory / name).parent.mkdir(parents=True)
    (directory / ("adapt.yaml" if adaptation else "config.yaml")).write_text("seed: 1")
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to(elsewhere / target)
    with pytest.raises(BonsaiError, match="is a symbolic link to") as caught:
        resume(directory)
    assert str(directory / name) in str(caught.value)
    assert str(elsewhere / target) in str(caught.value)
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["file", "folder"]
    assert (elsewhere / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
@pytest.mark.parametrize("name", ["config.yaml", "journal.sqlite", ".lock", "report.json", "model", "round-001"])
def test_a_pipe_is_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(BonsaiError, match=rf"{name} is a pipe, socket or device, where a (file|folder) .* is expected"):
        resume(tmp_path)


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1")
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(BonsaiError, match=r"journal.sqlite is a folder, where a file"):
        resume(tmp_path)
    (tmp_path / "journal.sqlite").rmdir()
    (tmp_path / "round-001").touch()
    with pytest.raises(BonsaiError, match=r"round-001 is a file, where a folder"):
        resume(tmp_path)


@links
def test_a_new_run_does_not_follow_links_either(small_run: RunConfig, tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(BonsaiError, match="is a symbolic link to"):
        run(small_run.model_copy(update={"out": tmp_path / "run"}), registry=registry)
    assert (tmp_path / "mine").read_text() == "mine"


@links
@pytest.mark.parametrize("name", ["results.json", "shared", "plots", ".lock"])
def test_a_sweep_does_not_follow_links(tmp_path: Path, registry: Registry, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BonsaiError, match="is a symbolic link to"):
        run_sweep([], tmp_path, registry, None, keep_models=False)  # type: ignore[arg-type]  # nobody listens
    assert not (tmp_path / "elsewhere").exists()


@links
def test_a_sweep_does_not_follow_links_of_its_runs(whole: Path, tmp_path: Path, registry: Registry) -> None:
    config = RunConfig.from_mapping(read_recipe(whole / "config.yaml"), "the run")
    (tmp_path / "arm").symlink_to(whole)
    with pytest.raises(BonsaiError, match="is a symbolic link to"):
        run_sweep([SweepRun("arm", {}, 0, "arm", config)], tmp_path, registry, None, keep_models=False)  # type: ignore[arg-type]
    assert (whole / "model").is_dir()


@links
def test_the_directory_itself_may_be_a_link_and_what_is_not_ours_stays(
    stopped: Path, whole: Path, tmp_path: Path, registry: Registry
) -> None:
    real = Path(shutil.copytree(stopped, tmp_path / "real"))
    (tmp_path / "link").symlink_to(real)
    theirs = ["mine.partial/x", "round-001/mine.partial", "round-001-notes/prior.npz.partial", ".mine.previous/x"]
    ours = ["report.json.partial", "scratch.partial/x", "round-002/repair.partial/x", ".model.previous/x"]
    ours += ["round-001/.repair.partial/x", "round-001/.repair.previous/x"]
    for name in theirs + ours:
        (real / name).parent.mkdir(parents=True, exist_ok=True)
        (real / name).touch()
    (real / "notes").symlink_to(tmp_path)
    resume(tmp_path / "link", registry=registry)
    assert weights(real) == weights(whole)
    assert [name for name in theirs + ours if (real / name).exists()] == theirs
    assert (real / "notes").is_symlink()


# Two at once


class Meanwhile:
    """Does something while a run checks its settings."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = [work]

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Warned) and self._work:
            self._work.pop()()


def test_of_two_runs_at_once_one_is_refused_and_the_other_stays_whole(
    small_run: RunConfig, tmp_path: Path, registry: Registry
) -> None:
    out = tmp_path / "run"
    first = small_run.model_copy(update={"out": out, "latency": False, "seed": 1})
    second = first.model_copy(update={"seed": 2, "eval_samples": 10**6})  # which it warns of once it has read the text
    late = Registry()
    late.register(Meanwhile(lambda: run(first, registry=registry)), "a test")
    with pytest.raises(BonsaiError, match="already holds a run"):
        run(second, registry=late)
    assert "seed: 1\n" in (out / "config.yaml").read_text()
    assert resume(out, registry=registry).report["config"]["seed"] == 1


def test_a_directory_is_taken_before_anything_is_written(
    small_run: RunConfig, tmp_path: Path, registry: Registry
) -> None:
    config = small_run.model_copy(update={"out": tmp_path / "run", "latency": False})
    (tmp_path / "run").mkdir()
    with (
        held(tmp_path / "run" / ".lock", "taken"),
        pytest.raises(BonsaiError, match=r"Another process is working on .* a new run needs another --out"),
    ):
        run(config, registry=registry)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert (
        run(config, registry=registry).directory == tmp_path / "run"
    )  # a lock that a killed process left is not a run


def test_a_sweep_is_held_until_its_results_are_written(tmp_path: Path, registry: Registry) -> None:
    def conclude(outcomes: object) -> None:
        with pytest.raises(BonsaiError, match="Another process is working on the sweep"):
            run_sweep([], tmp_path, registry, None, keep_models=False)  # type: ignore[arg-type]  # nobody listens
        concluded.append(outcomes)

    concluded: list[object] = []
    run_sweep([], tmp_path, registry, None, keep_models=False, conclude=conclude)  # type: ignore[arg-type]
    assert concluded == [[]]


# Damage


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


def flipped(data: bytes, where: int | None = None) -> bytes:
    where = len(data) * 2 // 3 if where is None else where
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


DAMAGES = [truncated, emptied, flipped]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("config.yaml", True),
        ("journal.sqlite", None),
        ("round-001/prior.npz", False),
        ("round-001/selection.npz", True),
        ("round-002/prior.npz", True),
        ("round-001/repair/*", False),
    ],
)
def test_a_damaged_file_is_refused_or_made_again(
    stopped: Path, whole: Path, tmp_path: Path, registry: Registry, name: str, refused: bool | None, damage: Any
) -> None:
    """`refused`: whether a resume ends in an error; None where either may happen."""
    path = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = next(path.glob(name))
    file.write_bytes(damage(file.read_bytes()))
    message = ""
    try:
        resume(path, registry=registry)
    except BonsaiError as error:
        message = str(error)
    assert refused in (None, bool(message))
    if message:
        assert file.name in message or "has changed" in message
    else:
        assert weights(path) == weights(whole)


def test_a_folder_in_place_of_a_repair_is_replaced(
    stopped: Path, whole: Path, tmp_path: Path, registry: Registry
) -> None:
    path = Path(shutil.copytree(stopped, tmp_path / "run"))
    file = next(path.glob("round-001/repair/*"))
    file.unlink()
    file.mkdir()
    resume(path, registry=registry)
    assert weights(path) == weights(whole)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_written_again(whole: Path, tmp_path: Path, registry: Registry, damage: Any) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    expected = (path / "report.json").read_bytes()
    (path / "report.json").write_bytes(damage(expected))
    resume(path, registry=registry)
    assert (path / "report.json").read_bytes() == expected


def test_a_digit_that_changed_in_a_journal_is_noticed(whole: Path, tmp_path: Path, registry: Registry) -> None:
    path = Path(shutil.copytree(whole, tmp_path / "run"))
    journal = path / "journal.sqlite"
    data = journal.read_bytes()
    journal.write_bytes(flipped(data, data.index(b'"perplexity": ') + len('"perplexity": ')))
    with pytest.raises(DamagedError, match=r"the event 'evaluate/.*' is not what was written"):
        resume(path, registry=registry)


@settings(max_examples=80)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_changed_in_a_journal_is_noticed_or_harmless(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float, bit: int
) -> None:
    original, damaged = whole / "journal.sqlite", tmp_path_factory.mktemp("damaged") / "journal.sqlite"
    with closing(Journal(original)) as journal:
        expected = journal.items()
    data = bytearray(original.read_bytes())
    data[int(share * len(data))] ^= 1 << bit
    damaged.write_bytes(data)
    try:
        journal = Journal(damaged)
    except BonsaiError:
        return
    with closing(journal):
        assert journal.items() == expected


@pytest.mark.parametrize(
    ("key", "payload", "words"),
    [
        ("run", {}, "config: Field required"),
        ("run", {"config": []}, "config: Input should be a valid dict"),
        ("evaluate/dense", {"perplexity": "12"}, "perplexity: Input should be a valid number"),
        ("round-1/prior", {}, "sha256: Field required"),
        ("round-1/selection", {"sha256": 5}, "sha256: Input should be a valid string"),
        ("round-1/submodels-3", {"values": [0.5, [1]]}, "values.1: Input should be a valid number"),
        ("round-1/search-start", {"values": 0.5}, "values: Input should be a valid list"),
        ("save", {"bytes": -1, "parameters": 1}, "bytes: Input should be greater"),
        ("step-3", {"loss": None}, "loss: Input should be a valid number"),
        ("dense", [1], "it: Input should be a valid dict"),
    ],
)
def test_a_malformed_event_is_reported_when_the_journal_is_opened(
    tmp_path: Path, key: str, payload: Any, words: str
) -> None:
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.append(key, payload)
    with pytest.raises(DamagedError) as caught:
        Journal(tmp_path / "journal.sqlite")
    assert f"the event '{key}', {words}" in str(caught.value)


def test_a_missing_event_and_a_foreign_database_are_reported(tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path / "journal.sqlite")) as journal,
        pytest.raises(DamagedError, match="'run' is missing"),
    ):
        journal["run"]
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as database:
        database.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, what TEXT)")
    with pytest.raises(DamagedError, match="is not a journal of Bonsai"):
        Journal(tmp_path / "other.sqlite")


def test_a_journal_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        database.execute(
            "CREATE TABLE events (number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, payload TEXT NOT NULL, "
            "elapsed_s REAL NOT NULL)"
        )
        database.execute("INSERT INTO events (key, payload, elapsed_s) VALUES ('peak', '{\"bytes\": 5}', 0.5)")
        database.commit()
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.append("dense", {}, 1)
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        assert journal.items() == [("peak", {"bytes": 5}, 0.5), ("dense", {}, 1.0)]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["windows-0.bin", "windows-0.json"])
def test_what_a_teacher_said_counts_only_where_it_is_whole(
    pico_directory: Path, tmp_path: Path, name: str, damage: Any
) -> None:
    windows = np.random.default_rng(0).integers(512, size=(3, 16))
    passes = Passes(load_model(str(pico_directory), device="cpu"), Chunks(2 * windows.shape[1], print))

    def stored() -> StoredTeacher:
        return StoredTeacher(tmp_path / "teacher", (3, 15, 5), 512)

    directory = RunDirectory(tmp_path)
    file = tmp_path / "teacher" / name
    with directory.reopen(print) as journal:
        ledger = Ledger(directory, journal, print)
        stored().compute([range(3)], passes, windows, ledger.record)
        assert stored().complete
        expected = file.read_bytes()
        file.write_bytes(damage(expected))
        again = stored()
        assert not again.complete
        again.compute(again.missing, passes, windows, ledger.record)
    assert file.read_bytes() == expected
    assert stored().complete


@pytest.mark.parametrize("count", ["7", "[]", '{"windows": 10}', '{"windows": -1, "sha256": ""}', "[" * 100_000])
def test_a_damaged_count_counts_nothing(tmp_path: Path, count: str) -> None:
    (tmp_path / "windows-0.bin").write_bytes(bytes(StoredTeacher.num_bytes((3, 15, 5), 512)))
    (tmp_path / "windows-0.json").write_text(count)
    assert StoredTeacher(tmp_path, (3, 15, 5), 512).missing == [range(3)]


@pytest.mark.parametrize("damage", [*DAMAGES, lambda data: data.replace(b'"step":"3"', b'"step":"2"')])
def test_a_saved_state_is_put_back_whole_or_refused(tmp_path: Path, damage: Any) -> None:
    def fresh() -> tuple[dict[str, torch.nn.Parameter], Any]:
        model = torch.nn.Linear(3, 2)
        return dict(model.named_parameters()), torch.optim.AdamW(model.parameters())

    parameters, optimizer = fresh()
    sum(parameter.sum() for parameter in parameters.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    file = tmp_path / "state.safetensors"
    save_state(file, 3, parameters, optimizer)
    others, other = fresh()
    assert load_state(file, others, other) == 3
    assert all(torch.equal(others[name], parameter) for name, parameter in parameters.items())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BonsaiError, match=r"state.safetensors is damaged .* Delete it to begin the training anew"):
        load_state(file, *fresh())


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_runs_share_is_computed_again_where_it_is_damaged(tmp_path: Path, damage: Any) -> None:
    cache = MeasurementCache(tmp_path)
    assert not cache.once({"of": 1}, lambda: {"value": np.arange(9.0)}).hit
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again = cache.once({"of": 1}, lambda: {"value": np.arange(9.0)})
    assert not again.hit
    assert np.array_equal(again.arrays["value"], np.arange(9.0))


def test_code_of_a_strangers_model_runs_only_if_asked_for_again(small_run: RunConfig, tmp_path: Path) -> None:
    trusting = small_run.model_copy(update={"out": tmp_path / "run", "latency": False, "trust_remote_code": True})
    report = run(trusting).report
    with pytest.raises(BonsaiError, match=r"If you trust it: bonsai resume .*run --trust-remote-code"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", trust_remote_code=True).report["perplexity"] == report["perplexity"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as partial:
        shutil.rmtree(partial)  # what takes the new one's name then fails
    assert (path / "weights").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
