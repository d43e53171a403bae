"""Work spread over processes and over a Ray cluster: the same numbers, whatever dies, joins, or is slow."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import StoppedError, Stopper, optional
from echo_worker import Echo

from bonsai_core import BonsaiError, Registry, RunConfig, hookimpl, resume, run
from bonsai_core.contracts import Repair
from bonsai_core.engine.workers import Workers
from bonsai_core.events import Event, RoundFinished, SubmodelMeasured, Warned
from bonsai_core.executors.crew import Crew
from bonsai_core.executors.process_crew import ProcessCrew

with_ray = optional(find_spec("ray"), "needs the extra: pip install 'bonsai-prune[ray]'")


def ignore(what: object) -> None:
    """Nobody listens."""


Start = Callable[..., Crew]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of this machine, of a head without CPUs; tests add nodes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # listen on loopback alone
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])  # for the nodes' processes
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def node(cluster: Any) -> Iterator[Callable[[], Any]]:
    """Adds a node with one CPU, for the time of a test."""
    added = []

    def add() -> Any:
        added.append(cluster.add_node(num_cpus=1))
        return added[-1]

    yield add
    for one in added:
        if one in cluster.worker_nodes:
            cluster.remove_node(one, allow_graceful=False)


def answers(crew: Crew, method: str, number: int, *more: object, here: Any = None) -> list[Any]:
    """Those of so many calls, in the order of the calls."""
    given = list(crew.answers([(method, index, *more) for index in range(number)], here))
    assert sorted(index for index, _ in given) == list(range(number))
    return [answer for _, answer in sorted(given)]


@pytest.fixture
def two_processes() -> Iterator[Start]:
    crews = []

    def start(warn: Any = ignore, **plan: Any) -> Crew:
        crews.append(ProcessCrew(Echo, [plan] * 2, warn, ignore))
        return crews[-1]

    yield start
    for crew in crews:
        crew.close()


def test_processes_answer_each_call_once_whoever_dies(two_processes: Start, tmp_path: Path) -> None:
    warnings: list[str] = []
    crew = two_processes(warnings.append)
    assert answers(crew, "twice", 20) == [2 * index for index in range(20)]
    assert answers(crew, "die_once", 5, str(tmp_path / "mark")) == [0, 2, 4, 6, 8]
    assert [text for text in warnings if "A worker died" in text]
    with pytest.raises(BonsaiError, match="0 cannot be"):
        answers(crew, "fail", 1)
    with pytest.raises(BonsaiError, match="3 workers died of the same batch"):
        answers(crew, "die", 1)
    assert answers(crew, "twice", 3) == [0, 2, 4]


def test_a_process_that_dies_while_it_has_nothing_to_do_is_replaced(two_processes: Start) -> None:
    crew = two_processes()
    first = set(answers(crew, "where", 8))
    for process in first:
        os.kill(process, signal.SIGKILL)
    time.sleep(1)  # loky looks after it
    assert first.isdisjoint(answers(crew, "where", 8))


ORPHANS = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from echo_worker import Echo
from bonsai_core.executors.process_crew import ProcessCrew
crew = ProcessCrew(Echo, [{}], print, print)
print(*[process for _, process in crew.answers([("where", 0)])], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_started_them() -> None:
    command = [sys.executable, "-c", ORPHANS, str(Path(__file__).parent)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    process = int(told.split()[-1])
    for _ in range(100):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process} lives on")


def test_a_call_that_breaks_its_worker_is_made_by_another_one(two_processes: Start, tmp_path: Path) -> None:
    warnings: list[str] = []
    crew = two_processes(warnings.append)
    assert answers(crew, "break_once", 4, str(tmp_path / "mark")) == [0, 2, 4, 6]
    assert any("uncorrectable" in text for text in warnings)


def test_this_process_works_too_and_alone_if_the_others_cannot(two_processes: Start) -> None:
    warnings: list[str] = []

    def here(index: int) -> int:
        time.sleep(0 if warnings else 0.5)
        return 2 * index

    for plan, words in (({"refusal": "not today"}, "not today"), ({"dies": True}, "died before it was ready")):
        warnings.clear()
        crew = two_processes(warnings.append, **plan)
        assert answers(crew, "twice", 60, here=here) == list(range(0, 120, 2))
        assert any(words in text for text in warnings), warnings


def test_nobody_is_waited_for_who_will_not_come(two_processes: Start) -> None:
    with pytest.raises(BonsaiError, match=r"No worker can take part\. not today"):
        answers(two_processes(refusal="not today"), "twice", 1)
    with pytest.raises(BonsaiError, match="died before they were ready"):
        answers(two_processes(dies=True), "twice", 1)


@pytest.fixture
def actors(cluster: Any) -> Iterator[Start]:
    from bonsai_core.executors.ray_crew import RayCrew

    crews = []

    def start(workers: int | None = None, warn: Any = ignore, **plan: Any) -> Crew:
        crews.append(RayCrew(Echo, plan, workers, 1, 0, warn, ignore))
        return crews[-1]

    yield start
    for crew in crews:
        crew.close()


@with_ray
def test_actors_answer_each_call_once_whoever_dies(
    actors: Start, node: Callable[[], Any], cluster: Any, tmp_path: Path
) -> None:
    warnings: list[str] = []
    first, _ = node(), node()
    crew = actors(warn=warnings.append)
    assert answers(crew, "die_once", 5, str(tmp_path / "mark")) == [0, 2, 4, 6, 8]
    assert [text for text in warnings if "A worker died" in text]
    with pytest.raises(BonsaiError, match="0 cannot be"):
        answers(crew, "fail", 1)
    calls = crew.answers([("where", index) for index in range(20)])
    given = [next(calls)]
    cluster.remove_node(first, allow_graceful=False)  # in the middle of its calls
    given += calls
    assert sorted(index for index, _ in given) == list(range(20))


@with_ray
def test_actors_join_while_calls_are_answered(actors: Start, node: Callable[[], Any]) -> None:
    node()
    crew = actors()
    calls = crew.answers([("where", index) for index in range(100)])
    given = [next(calls)]
    node()
    given += calls
    assert sorted(index for index, _ in given) == list(range(100))
    assert len({process for _, process in given}) == 2


@with_ray
def test_a_slow_worker_keeps_nobody_waiting(actors: Start, node: Callable[[], Any], tmp_path: Path) -> None:
    node(), node()
    crew, started = actors(), time.monotonic()
    assert answers(crew, "twice", 2) == [0, 2]
    assert answers(crew, "sleep_once", 6, str(tmp_path / "mark")) == [0, 2, 4, 6, 8, 10]
    assert answers(crew, "twice", 3) == [0, 2, 4]  # whoever still sleeps
    assert time.monotonic() - started < 300


@with_ray
def test_repairs_come_out_of_the_object_store_as_they_went_in(cluster: Any, node: Callable[[], Any]) -> None:
    import ray

    from bonsai_core.executors.ray_crew import RayRepairs

    node()
    store = RayRepairs()
    generator = torch.Generator().manual_seed(0)
    saved = {
        str(dtype): Repair(torch.randn(3, 2, 4, generator=generator).to(dtype), torch.arange(3.0))
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    }
    for name, repair in saved.items():
        store.save_repair(name, repair)

    def differing(store: RayRepairs) -> list[str]:
        found = {name: store.load_repair(name, torch.device("cpu")) for name in saved}
        pairs = [
            (name, getattr(found[name], what), getattr(saved[name], what))
            for name in saved
            for what in ("weight", "bias")
        ]
        return [name for name, ours, theirs in pairs if ours.dtype != theirs.dtype or not torch.equal(ours, theirs)]

    assert differing(store) == []
    assert ray.get(ray.remote(differing).remote(store)) == []
    assert "other" not in store


FULL = """
import ray, sys, torch
from bonsai_core import BonsaiError
from bonsai_core.contracts import Repair
ray.init(address="local", num_cpus=0, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False,
         _system_config={"local_fs_capacity_threshold": float(sys.argv[1])})
from bonsai_core.executors.ray_crew import RayRepairs
store = RayRepairs()
try:
    for number in range(30):
        store.save_repair(str(number), Repair(torch.full((1024, 1, 1024), number / 2)))
    print([float(store.load_repair(str(number), torch.device("cpu")).weight.mean()) for number in range(30)])
except BonsaiError as error:
    print(error)
"""


@with_ray
@pytest.mark.parametrize("disk", ["there is room on", "full"])
def test_a_full_object_store_spills_or_is_told_of(disk: str) -> None:
    threshold = "0.0" if disk == "full" else "1.0"
    command = [sys.executable, "-W", "ignore", "-c", FULL, threshold]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    if disk == "full":
        assert "object store is full" in told
        assert "--object-store-memory" in told
    else:
        assert told.strip() == str([number / 2 for number in range(30)])


def comparable(report: Any) -> Any:
    """A report without what another executor changes: times, memory, and its own settings."""
    left_out = {"seconds", "elapsed_s", "peak_bytes", "stages", "executor", "ray_address", "workers", "out"}
    if isinstance(report, dict):
        return {name: comparable(value) for name, value in report.items() if name not in left_out}
    return [comparable(value) for value in report] if isinstance(report, list) else report


def outcome(result: Any) -> tuple[Any, str]:
    """A run's report, and a digest of the weights that it wrote."""
    weights = b"".join(path.read_bytes() for path in sorted(result.model_path.glob("*.safetensors")))
    return comparable(result.report), hashlib.sha256(weights).hexdigest()


@pytest.fixture(scope="module")
def spread_run(small_run: RunConfig) -> RunConfig:
    """Enough sub-models and text to be spread: 6 blocks of windows and 24 sub-models, on one thread."""
    torch.set_num_threads(1)
    return small_run.model_copy(update={"submodels": 24, "prior_samples": 6 * 64, "search": 1})


@pytest.fixture(scope="module")
def alone(spread_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("alone") / "run"
    return outcome(run(spread_run.model_copy(update={"out": out})))


class Disturber:
    """Kills something in the middle of the measuring, once in each round, and remembers what was said."""

    def __init__(self, *kills: Callable[[], None]) -> None:
        self._kills = dict(enumerate(kills, start=1))
        self.warnings: list[str] = []

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        if isinstance(event, SubmodelMeasured) and (kill := self._kills.pop(event.round, None)):
            kill()
        if isinstance(event, Warned):
            self.warnings.append(event.text)


def disturbed(config: RunConfig, out: Path, *kills: Callable[[], None]) -> tuple[Any, list[str]]:
    """What a run came to, and what it warned of."""
    registry, disturber = Registry(), Disturber(*kills)
    registry.register(disturber, "the test")
    result = run(config.model_copy(update={"out": out}), registry=registry)
    return outcome(result), disturber.warnings


def kill_one(called: str, *pids: int) -> None:
    """SIGKILL one process below others, by a word of its command."""
    below = [process for pid in pids for process in psutil.Process(pid).children(recursive=True)]
    next(process for process in below if called in " ".join(process.cmdline())).kill()


@pytest.mark.parametrize("driver", ["works too", "only decides"])
def test_processes_of_this_machine_give_the_same_report(
    driver: str, spread_run: RunConfig, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = []
    if driver == "only decides":
        monkeypatch.setattr(Workers, "_takes_part", False)
        kills = [lambda: kill_one("loky.backend.popen", os.getpid())]
    result, warnings = disturbed(spread_run.model_copy(update={"workers": 2}), tmp_path / "run", *kills)
    assert result == alone
    assert any("died" in text for text in warnings) == bool(kills)


def test_a_resumed_run_may_have_other_workers(spread_run: RunConfig, alone: Any, tmp_path: Path) -> None:
    stopper, registry = Stopper(lambda event: isinstance(event, RoundFinished)), Registry()
    registry.register(stopper, "the test")
    with pytest.raises(StoppedError):
        run(spread_run.model_copy(update={"out": tmp_path / "run"}), registry=registry)
    assert outcome(resume(tmp_path / "run", workers=2)) == alone


@with_ray
def test_a_cluster_gives_the_same_report_whoever_dies(
    spread_run: RunConfig, alone: Any, cluster: Any, node: Callable[[], Any], tmp_path: Path
) -> None:
    nodes = node(), node()
    raylets = [each.all_processes["raylet"][0].process.pid for each in nodes]
    config = spread_run.model_copy(update={"executor": "ray"})
    result, warnings = disturbed(
        config,
        tmp_path / "run",
        lambda: kill_one("ray::Worker", *raylets),
        lambda: cluster.remove_node(nodes[1], allow_graceful=False),
    )
    assert result == alone
    assert any("died" in text for text in warnings), warnings


def journaled(out: Path) -> list[str]:
    """The keys of a run's journal, in order, whoever writes it."""
    path = out / "journal.sqlite"
    if not path.is_file():
        return []
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database, suppress(sqlite3.Error):
        return [key for (key,) in database.execute("SELECT key FROM events ORDER BY number")]
    return []


@with_ray
def test_a_run_whose_driver_was_killed_ends_the_same(
    spread_run: RunConfig, alone: Any, cluster: Any, node: Callable[[], Any], tmp_path: Path
) -> None:
    node()
    out, settings = tmp_path / "run", tmp_path / "run.yaml"
    config = spread_run.model_copy(update={"executor": "ray", "ray_address": cluster.address, "out": out})
    settings.write_text(config.to_yaml(), encoding="utf-8")
    driver = subprocess.Popen([sys.executable, "-m", "bonsai_core", "run", "--config", str(settings), "--quiet"])
    while not any(key.startswith("round-2/submodels-") for key in journaled(out)):
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    measured = journaled(out)
    result = resume(out, executor="ray", ray_address=cluster.address)
    assert outcome(result) == alone
    again = journaled(out)
    assert again[: len(measured)] == measured
    assert len(again) == len(set(again))


@with_ray
def test_a_run_without_sub_models_needs_no_workers(small_run: RunConfig, tmp_path: Path) -> None:
    settings = {**small_run.model_dump(), "executor": "ray", "prior": "magnitude", "estimator": "none"}
    _, warnings = disturbed(RunConfig.model_validate(settings), tmp_path / "run")
    assert any("--executor ray has nothing to do" in text for text in warnings)


@with_ray
def test_a_worker_with_other_versions_is_refused(cluster: Any, node: Callable[[], Any]) -> None:
    from bonsai_core.engine.worker import Worker
    from bonsai_core.executors.ray_crew import RayCrew

    node()
    crew = RayCrew(Worker, {"versions": {"bonsai-prune": "9.9"}}, None, 1, 0, ignore, ignore)
    with pytest.raises(
        BonsaiError, match=r"No worker can take part.*bonsai-prune .* instead of 9\.9.*need the versions"
    ):
        answers(crew, "measure", 1)
    crew.close()
