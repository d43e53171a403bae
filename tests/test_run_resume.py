"""Laws 5 and 6: the same seed gives the same run; killed anywhere and resumed, it ends with the same bytes.

The work that is told of, done or not done again, adds up at every resume.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import Photographer

from bonsai_core import Registry, RunConfig, hookimpl, resume, run
from bonsai_core.events import Event, Journaled, TokensDone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and forkserver")

VARYING = ("seconds", "latency", "memory")
EVENTS = [
    "run",
    "stages",
    "evaluate/dense",
    "dense",
    *(
        f"round-{number}/{step}"
        for number in (1, 2)
        for step in (
            "prior",
            "submodels-0",
            "submodels-2",
            "selection",
            "repair",
            "divergence",
        )
    ),
    "evaluate/pruned",
    "loss",
    "peak",
    "save",
    "verify",
]
RENAMES = ["config.yaml", *(["prior.npz", "selection.npz", "repair"] * 2), "model", "report.json", "README.md"]
"""What a run moves into place, in order."""


def photographer(directory: Path, at_event: Callable[[str], Path], keys: Collection[str] = EVENTS) -> Photographer:
    """Copies a run directory at some events of its journal."""
    return Photographer(
        directory,
        lambda event: at_event(event.key) if isinstance(event, Journaled) and event.key in keys else None,
    )


@contextmanager
def photographed_renames(directory: Path, copies: Callable[[int, str], Path]) -> Iterator[list[str]]:
    """Copies a run directory before and after everything that is moved into place, whose names are yielded."""
    replace, names = os.replace, list[str]()

    def replace_and_copy(source: Any, target: Any) -> None:
        number = len(names)
        names.append(Path(target).name)
        if number:  # before the first, there is no run yet
            shutil.copytree(directory, copies(number, "before"))
        replace(source, target)
        shutil.copytree(directory, copies(number, "after"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_and_copy)
        yield names


class Killer:
    """Ends its process, without a chance to clean up, as soon as an event is in the journal."""

    def __init__(self, key: str) -> None:
        self._key = key

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, Journaled) and event.key == self._key:
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die_at_event(config: RunConfig, key: str) -> None:
    registry = Registry()
    registry.register(Killer(key), "the killer")
    torch.set_num_threads(1)
    run(config, registry=registry)


def die_at_rename(work: Callable[[Any], object], subject: Any, number: int, when: str) -> None:
    """Do the work, but die before or after the n-th time (from 0) that something is moved into place."""
    replace, seen = os.replace, iter(range(1000))

    def replace_or_die(*args: Any, **kwargs: Any) -> None:
        last = next(seen) == number
        if last and when == "before":
            die()
        replace(*args, **kwargs)
        if last:
            die()

    os.replace = replace_or_die
    torch.set_num_threads(1)
    work(subject)


def in_child(target: Callable[..., object], *args: Any) -> int | None:
    """The exit code of a process that has torch already, so that it starts in an instant."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["bonsai_core.engine", "transformers.models.llama.modeling_llama", "sklearn.linear_model"]
    )
    child = context.Process(target=on_one_thread, args=(target, *args))
    child.start()
    child.join(120)
    return child.exitcode


def on_one_thread(target: Callable[..., object], *args: Any) -> None:
    torch.set_num_threads(1)
    target(*args)


def contents(directory: Path) -> dict[str, Any]:
    """What two equal runs have in common: arrays and model as bytes, the report without what was timed."""
    files = [*directory.glob("round-*/*"), *directory.glob("model/*")]
    untimed = [file for file in files if file.name != "README.md"]  # the card has what was timed
    found: dict[str, Any] = {str(file.relative_to(directory)): file.read_bytes() for file in untimed}
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    return {**found, "report": {name: value for name, value in report.items() if name not in VARYING}}


@pytest.fixture(scope="module")
def config(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that puts its sub-models through the layers in two batches of two."""
    return elsewhere(small_run, tmp_path_factory.mktemp("runs") / "whole").model_copy(
        update={"batch_size": 2 * small_run.samples, "batch_tokens": 1}
    )


class Whole(NamedTuple):
    """A run that was never killed, and its directory as kills would have left it."""

    contents: dict[str, Any]
    at_event: Callable[[str], Path]
    at_rename: Callable[[int, str], Path]
    renames: list[str]


@pytest.fixture(scope="module")
def watched(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    assert config.out is not None
    folder, registry = tmp_path_factory.mktemp("copies"), Registry()

    def at_event(key: str) -> Path:
        return folder / key.replace("/", "-")

    def at_rename(number: int, when: str) -> Path:
        return folder / f"{number}-{when}"

    registry.register(photographer(config.out, at_event), "the photographer")
    with photographed_renames(config.out, at_rename) as renames:
        run(config, registry=registry)
    return Whole(contents(config.out), at_event, at_rename, renames)


@pytest.fixture
def whole(watched: Whole) -> dict[str, Any]:
    """What a run that was never killed ends with."""
    return watched.contents


def elsewhere(config: RunConfig, path: Path) -> RunConfig:
    return config.model_copy(update={"out": path})


class TokenCounter:
    """Counts tokens that went through the model or did not have to again."""

    def __init__(self) -> None:
        self.tokens = 0

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, TokensDone):
            self.tokens += event.tokens


def assert_resumes(path: Path, whole: dict[str, Any], registry: Registry) -> None:
    """It ends with the same bytes, its work adds up, and nothing unfinished is left."""
    finished, counter = (path / "report.json").exists(), TokenCounter()
    with registry.observed_by(counter, "the counter"):
        report = resume(path, registry=registry).report
    assert finished or counter.tokens == report["forward_tokens"]
    assert contents(path) == whole
    assert not [*path.rglob("*.partial"), *path.rglob("*.previous")]


def test_a_run_has_the_files_that_the_laws_are_checked_on(whole: dict[str, Any]) -> None:
    assert {"model/model.safetensors", "model/config.json", "round-001/prior.npz", "round-002/selection.npz"} <= {
        *whole
    }


def test_the_same_seed_gives_the_same_run_whatever_the_global_generators(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    torch.manual_seed(123)
    np.random.seed(123)
    states = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    run(elsewhere(config, tmp_path / "again"), registry=registry)
    assert contents(tmp_path / "again") == whole
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == states[1]


def test_the_same_seed_gives_the_same_run_in_another_process(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path
) -> None:
    assert in_child(run_and_die_at_event, elsewhere(config, tmp_path / "child"), "never") == 0
    assert contents(tmp_path / "child") == whole


def test_another_seed_gives_other_measurements(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    run(elsewhere(config, tmp_path / "other").model_copy(update={"seed": 1}), registry=registry)
    assert contents(tmp_path / "other")["round-001/selection.npz"] != whole["round-001/selection.npz"]


@pytest.mark.parametrize("key", EVENTS)
def test_killed_at_any_event_it_resumes_to_the_same_bytes(
    watched: Whole, key: str, tmp_path: Path, registry: Registry
) -> None:
    assert_resumes(shutil.copytree(watched.at_event(key), tmp_path / "run"), watched.contents, registry)


def test_the_events_are_all_there_are(config: RunConfig, whole: dict[str, Any]) -> None:
    assert config.out is not None
    with closing(sqlite3.connect(config.out / "journal.sqlite")) as database:
        keys = [key for (key,) in database.execute("SELECT key FROM events ORDER BY number")]
    assert keys == EVENTS


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, len(RENAMES)), ids=lambda n: f"{n}-{RENAMES[n]}")
def test_killed_around_any_rename_it_resumes_to_the_same_bytes(
    watched: Whole, number: int, when: str, registry: Registry
) -> None:
    path = watched.at_rename(number, when)
    written = RENAMES[: number + (when == "after")]
    assert (path / "report.json").exists() == ("report.json" in written)
    assert (path / "model" / "README.md").exists() == ("README.md" in written)
    assert_resumes(path, watched.contents, registry)


def test_the_renames_are_all_there_are(watched: Whole) -> None:
    assert watched.renames == RENAMES


def test_killed_before_its_configuration_is_written_it_starts_anew(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "run"
    assert in_child(die_at_rename, run, elsewhere(config, path), 0, "before") == -signal.SIGKILL
    assert sorted(file.name for file in path.iterdir()) == [".lock", "config.yaml.partial"]
    run(elsewhere(config, path), registry=registry)
    assert contents(path) == whole


def test_killed_while_an_old_checkpoint_is_moved_aside_it_resumes_to_the_same_bytes(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "run"
    saved = RENAMES.index("model")
    assert in_child(die_at_rename, run, elsewhere(config, path), saved, "after") == -signal.SIGKILL
    assert (path / "model").is_dir()
    assert in_child(die_at_rename, resume, path, 0, "after") == -signal.SIGKILL
    assert not (path / "model").exists()
    assert_resumes(path, whole, registry)


def test_killed_over_and_over_it_still_gets_there(
    config: RunConfig, whole: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "run"
    assert in_child(run_and_die_at_event, elsewhere(config, path), "round-1/submodels-0") == -signal.SIGKILL
    for number in range(2):
        assert in_child(die_at_rename, resume, path, 0, "after") == -signal.SIGKILL, number
    assert_resumes(path, whole, registry)


@pytest.mark.parametrize("damage", ["deleted", "cut short"])
def test_a_lost_checkpoint_is_written_again(
    config: RunConfig, whole: dict[str, Any], damage: str, tmp_path: Path, registry: Registry
) -> None:
    path = tmp_path / "run"
    run(elsewhere(config, path), registry=registry)
    if damage == "deleted":
        for file in (path / "model").iterdir():
            file.unlink()
        (path / "model").rmdir()
    else:
        os.truncate(path / "model" / "model.safetensors", 1000)
    assert_resumes(path, whole, registry)


def test_a_finished_run_is_returned_as_it_is(config: RunConfig, whole: dict[str, Any], registry: Registry) -> None:
    assert config.out is not None
    before = json.loads((config.out / "report.json").read_text(encoding="utf-8"))
    assert resume(config.out, registry=registry).report == before


VARIANTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "repair": (
        {"compensator": {"name": "bias"}, "eval_rounds": True},
        ["round-1/selection", "round-1/repair", "round-1/evaluate", "round-2/prior", "round-2/selection"],
    ),
    "least squares": (
        {"prior": "obs", "compensator": "least_squares", "eval_rounds": True},
        [
            "round-1/prior",
            "round-1/submodels-0",
            "round-1/repair",
            "round-2/prior",
            "evaluate/pruned",
            "save",
        ],
    ),
    "search": (
        {"compensator": {"name": "least_squares"}, "search": 2, "search_samples": 4, "samples": 2, "prior_samples": 8},
        [
            "round-1/search-start",
            "round-1/search-0",
            "round-1/search-0-final",
            "round-1/divergence",
            "round-2/selection",
        ],
    ),
    "wholes": (
        {
            "units": ["attention", "mlp", "sublayer", "layer"],
            "submodels": 30,
            "search_samples": 4,
            "sparsity": 0.5,
            "round_fraction": 0.25,
        },
        ["round-1/submodels-20", "round-1/selection", "round-2/search-start", "round-2/selection"],
    ),
    "emptied": (
        {"compensator": {"name": "bias"}, "min_units": 0, "sparsity": 0.8, "round_fraction": 0.4},
        ["round-2/repair"],
    ),
    "fresh": ({"resample": "fresh"}, ["round-1/selection", "round-2/submodels-0"]),
    "timed": ({"latency": True}, ["save", "latency"]),
    "adaptive": (
        {"sampler": {"name": "adaptive", "batch": 2, "settled": 1.0}, "estimator": "bayes", "submodels": 8},
        ["round-1/submodels-2", "round-1/submodels-4", "round-2/submodels-2"],
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_run_resumes_to_the_same_bytes(
    config: RunConfig, variant: str, tmp_path: Path, registry: Registry
) -> None:
    changes, keys = VARIANTS[variant]
    values = config.model_dump(mode="json") | changes | {"out": str(tmp_path / "whole")}

    def at_event(key: str) -> Path:
        return tmp_path / key.replace("/", "-")

    watching = Registry()
    watching.register(photographer(tmp_path / "whole", at_event, keys), "the photographer")
    run(RunConfig.from_mapping(values, "the test"), registry=watching)
    expected = contents(tmp_path / "whole")
    for key in keys:
        assert_resumes(at_event(key), expected, registry)


def test_repairs_that_were_half_removed_are_computed_again(watched: Whole, tmp_path: Path, registry: Registry) -> None:
    path = shutil.copytree(watched.at_event("evaluate/pruned"), tmp_path / "run")
    next((path / "round-001" / "repair").iterdir()).unlink()
    assert_resumes(path, watched.contents, registry)
