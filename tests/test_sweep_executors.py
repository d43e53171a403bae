"""Sweeps whose runs go on at the same time, in processes or on a Ray cluster, and what such runs share."""

from __future__ import annotations

import importlib.util
import io
import json
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from conftest import optional
from filelock import FileLock
from rich.console import Console
from test_sweep import Silent, rows_of, runs_of, timeless, write

from bonsai_core import BonsaiError, MeasurementCache, Registry, RunConfig, WeightPrior, hookimpl
from bonsai_core.cli.main import cli
from bonsai_core.cli.sweep_progress import SweepProgress
from bonsai_core.events import Event, PlannedStage, RunStarted, Stage, StageStarted, TokensDone, Warned
from bonsai_core.executors.ray_cluster import ray_cluster
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.ledger import Ledger, Step
from bonsai_core.rundir.turns import turn
from bonsai_core.sweep.expand import SweepRun
from bonsai_core.sweep.hardware import joined
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.places.choice import Where
from bonsai_core.sweep.places.place import ATTEMPTS, Task, after_death
from bonsai_core.sweep.places.processes import Processes
from bonsai_core.sweep.places.ray_check import TOKEN_NAME, fault_of_worker, write_token
from bonsai_core.sweep.places.ray_tasks import RayTasks
from bonsai_core.sweep.places.worker import perform
from bonsai_core.sweep.record import gather
from bonsai_core.sweep.runner import NAMES, run_sweep
from bonsai_core.sweep.spec import read_sweep

needs_ray = optional(importlib.util.find_spec("ray"), "needs the extra ray")


# What runs share


COMPUTE = """
import pathlib, sys, time
import numpy as np
from bonsai_core.rundir.measurement_cache import MeasurementCache
folder, own = pathlib.Path(sys.argv[1]), sys.argv[2]

def compute():
    with (folder / "computed").open("a") as file:
        file.write(own)
    while len(list(folder.glob("asked-*"))) < int(sys.argv[3]):
        time.sleep(0.01)
    time.sleep(0.3)
    return {"a": np.arange(3.0)}

(folder / f"asked-{own}").touch()
cached = MeasurementCache(folder / "shared").once({"of": "both"}, compute)
print(cached.hit, cached.arrays["a"].tolist())
"""


def computing(folder: Path, own: str, number: int) -> subprocess.Popen[str]:
    """A process that wants a measurement; if it computes it, it does so until `number` of them have asked for it."""
    command = [sys.executable, "-c", COMPUTE, str(folder), own, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_that_want_a_measurement_at_once_one_computes_it(tmp_path: Path) -> None:
    processes = [computing(tmp_path, own, 2) for own in "ab"]
    told = sorted(process.communicate()[0] for process in processes)
    assert told == ["False [0.0, 1.0, 2.0]\n", "True [0.0, 1.0, 2.0]\n"]
    assert len((tmp_path / "computed").read_text()) == 1
    assert [path.suffix for path in (tmp_path / "shared").iterdir()] == [".safetensors"]


def test_a_process_that_dies_while_it_computes_is_not_waited_for(tmp_path: Path) -> None:
    process = computing(tmp_path, "a", 2)
    while not (tmp_path / "computed").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    cached = MeasurementCache(tmp_path / "shared").once({"of": "both"}, lambda: {"a": np.ones(2)})
    assert not cached.hit
    assert cached.waited_s < 60


def test_a_lock_whose_holder_shows_no_life_does_not_block_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with FileLock(path), turn(path, silence_s=0.2):  # as a file server that does not know that a machine has died
        pass
    assert path.exists()


def test_one_that_shows_life_is_waited_for(tmp_path: Path) -> None:
    order: list[None] = []
    path = tmp_path / "a.lock"
    with FileLock(path):
        waiting = threading.Thread(target=lambda: order.append(turn(path, silence_s=0.5).__enter__()))
        waiting.start()
        for beat in range(15):
            path.with_suffix(".alive").write_text(str(beat))
            time.sleep(0.1)
        assert not order
    waiting.join()
    assert order


def test_waiting_for_another_run_is_not_counted_as_a_runs_own_time(small_run: RunConfig, tmp_path: Path) -> None:
    def compute() -> dict[str, Any]:
        begun.set()
        time.sleep(1.0)
        return {"a": np.ones(1)}

    begun = threading.Event()
    other = threading.Thread(target=lambda: MeasurementCache(tmp_path / "shared").once({"of": 1}, compute))
    directory = RunDirectory(tmp_path / "run")
    with directory.begin(small_run, print) as journal:
        ledger = Ledger(directory, journal, print, MeasurementCache(tmp_path / "shared"))
        other.start()
        begun.wait()
        ledger.timed(Step("dense"), lambda: ledger.cached({"of": 1}, 0, compute))
        other.join()
        ((_, _, seconds),) = journal.items()
    assert 1.0 <= seconds < 1.7  # what computing took, not that and the waiting


# In processes


class Watcher(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.errors: dict[str, str] = {}

    def event(self, number: int, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.text)

    def finished(self, number: int, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.errors[outcome.run.arm] = outcome.error


class Killer(Watcher):
    """Kills the process of the first run, once, while it measures sub-models."""

    def __init__(self, directory: Path, run: SweepRun) -> None:
        super().__init__()
        self._path = directory / run.name
        self.killed = 0

    def event(self, number: int, event: Event) -> None:
        super().event(number, event)
        measuring = isinstance(event, StageStarted) and event.stage is Stage.MEASURE
        if measuring and not self.killed and number == 1:
            (process,) = [each for each in psutil.Process().children(recursive=True) if self._has_run(each)]
            process.kill()
            self.killed += 1

    def _has_run(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return any(Path(file.path).is_relative_to(self._path) for file in process.open_files())
        return False


class Interrupting(Killer):
    """What Ctrl-C does, once the run that was killed has ended."""

    def finished(self, number: int, outcome: Outcome) -> None:
        super().finished(number, outcome)
        if number == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def sweep(small_run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a sweep that takes a second or two, with an arm that fails."""
    values = small_run.model_dump(mode="json", exclude_defaults=True)
    base = {name: value for name, value in values.items() if name not in ("seed", "out")}
    return write(
        tmp_path_factory.mktemp("executors"),
        base={**base, "submodels": 600},
        arms={"full": {}, "broken": {"model": "/nowhere"}, "plain": {"estimator": "none"}},
    )


@pytest.fixture(scope="module")
def alone(sweep: Path, registry: Registry) -> list[dict[str, Any]]:
    """Its rows as one process finds them."""
    runs = runs_of(sweep, registry)
    outcomes = run_sweep(runs, sweep.parent / "alone", registry, Silent(), keep_models=False)
    return [timeless(row) for row in gather(read_sweep(sweep), outcomes, "").rows]


def test_what_a_killed_process_and_ctrl_c_leave_is_completed_to_the_same(
    sweep: Path, alone: list[dict[str, Any]], registry: Registry, tmp_path: Path
) -> None:
    runs = runs_of(sweep, registry)
    names = {run.name for run in runs}
    killer = Interrupting(tmp_path, runs[0])
    with pytest.raises(KeyboardInterrupt):
        run_sweep(runs, tmp_path, registry, killer, keep_models=False, place=Processes(2, registry))
    assert killer.killed == 1
    assert any("Run 1, full, seed 0: its process was killed by SIGKILL" in text for text in killer.warnings)
    assert killer.computed.count(runs[0].name) == 2
    assert not multiprocessing.active_children()
    assert not (tmp_path / "logs").exists()

    finished = [run.name for run in runs if (tmp_path / run.name / "report.json").exists()]
    done = CliRunner().invoke(cli, ["sweep", str(sweep), "--out", str(tmp_path), "--json-lines"])
    assert done.exit_code == 1, done.output
    assert "run 2 of 3: broken, seed 0: failed: There is no model directory /nowhere" in done.stderr
    assert "1 of 3 runs failed" in done.stderr
    *events, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert result["event"] == "Result"
    assert runs[0].name in finished
    assert {event["run"] for event in events if event["event"] == "RunFinished"} == names - {"broken_seed-0", *finished}
    assert {event["run"] for event in events} <= names - {*finished}
    times = {"prune_s", "speedup"}
    assert rows_of(tmp_path) == [{name: v for name, v in row.items() if name not in times} for row in alone]


def test_a_run_whose_process_dies_again_and_again_fails_with_words(sweep: Path, registry: Registry) -> None:
    listener, task = Watcher(), Task(1, runs_of(sweep, registry)[0], sweep.parent)
    for attempt in range(2, ATTEMPTS + 1):
        following = after_death(task, "was killed by SIGKILL", listener)
        assert isinstance(following, Task)
        task = following
        assert task.attempt == attempt
    assert len(listener.warnings) == ATTEMPTS - 1
    failed = after_death(task, "was killed by SIGKILL", listener)
    assert isinstance(failed, Outcome)
    assert failed.error == f"Its process died {ATTEMPTS} times; the last one was killed by SIGKILL."


def test_a_fault_costs_its_run_and_says_where_it_is(sweep: Path, registry: Registry, tmp_path: Path) -> None:
    def send(events: object) -> None:
        raise ValueError("a fault")

    run = runs_of(sweep, registry)[0]
    outcome = perform(Task(1, run, tmp_path), send)
    log = tmp_path / "logs" / f"{run.name}.fault.log"
    assert outcome.error == f"ValueError: a fault (a fault in Bonsai or in a plugin; {log} says where)"
    assert "in send" in log.read_text()


def test_a_plugin_that_only_this_process_knows_is_refused(sweep: Path, tmp_path: Path) -> None:
    class Mine(WeightPrior):
        name = "mine"

        def score(self, site: Any) -> Any:
            return np.ones(site.num_units)

    class Plugin:
        @hookimpl
        def bonsai_priors(self) -> list[Any]:
            return [Mine]

    registry = Registry()
    registry.register(Plugin(), "a notebook")
    runs = runs_of(sweep, registry, {"prior": "mine"})
    for place in (Processes(2, registry), RayTasks(None, 1.0, None, registry)):
        with pytest.raises(
            BonsaiError, match=r"Run 1, full, seed 0, needs the prior 'mine', .* by hand \(a notebook\)"
        ):
            run_sweep(runs, tmp_path, registry, Silent(), keep_models=False, place=place)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Where(jobs=0), "--jobs 0: give a number of runs from 1"),
        (Where(num_cpus=2.0), "--num-cpus is for --executor ray"),
        (Where(ray_address="auto", jobs=2), "--ray-address is for --executor ray"),
        (Where("ray", jobs=2), "--jobs is for --executor local"),
        (Where("ray", num_gpus=-1.0), "--num-gpus -1: give a number from 0"),
        (Where("ray", num_cpus=float("nan")), "--num-cpus nan: give a number from 0"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(
    where: Where, message: str, sweep: Path, registry: Registry
) -> None:
    with pytest.raises(BonsaiError, match=message):
        where.place(read_sweep(sweep), registry)


def test_what_a_killed_sweep_leaves_half_written_is_removed(tmp_path: Path, registry: Registry) -> None:
    left = ["shared/0f.lock", "shared/0f.alive", "shared/0f-node-7.partial", f"{TOKEN_NAME}-node-7", TOKEN_NAME]
    kept = ["shared/0f.safetensors", "shared/deeper/0f.lock", "mine.lock"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    run_sweep([], tmp_path, registry, Silent(), keep_models=False)
    NAMES.refuse_links(tmp_path)
    assert [name for name in left + kept if (tmp_path / name).exists()] == kept


# What is shown


def test_every_run_that_goes_on_has_a_line(tmp_path: Path, registry: Registry) -> None:
    runs = runs_of(write(tmp_path, seeds=[0, 1, 2, 3]), registry)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80, height=30)
    stages = (PlannedStage(Stage.MEASURE, 1, 100.0, 100, 0.0, ""), PlannedStage(Stage.SAVE, 0, 100.0, 0, 0.0, ""))
    with SweepProgress(console, runs, None, several=True) as shown:
        for number in (2, 4):
            shown.started(number, runs[number - 1])
            shown.event(number, RunStarted(Path("x"), "m", 1, 4, 0.2, 200, "", stages=stages))
            shown.event(number, StageStarted(Stage.MEASURE, 1, "sub-models " * 20))
            shown.event(number, TokensDone(10 * number))
        shown.event(2, Warned("The process died."))
        shown.event(4, Warned("The process died."))
        shown.finished(1, Outcome(runs[0], error="It is broken."))
    text = output.getvalue()
    assert "1 of 4 runs" in text
    assert "2 default, seed 1" in text
    assert "4 default, seed 3" in text
    assert "round 1 of 1: sub-models" in text
    assert text.count(" The process died.") == 1
    assert re.search("run 1 of 4: default, seed 0: .*failed.*: It is broken", text)
    assert max(map(len, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines())) <= 80


# On a Ray cluster


def test_the_hardware_is_that_of_the_runs() -> None:
    one, other = {"cpu": "A", "cores": 8, "gpu": None}, {"cpu": "A", "cores": 16, "gpu": "G"}
    assert joined([one, one]) == one
    assert joined([one, other, one]) == {"cpu": "A", "cores": "8; 16", "gpu": "none; G"}


def test_a_worker_that_cannot_do_runs_says_why(tmp_path: Path) -> None:
    token = write_token(tmp_path)
    assert fault_of_worker(token) is None
    assert [path.name for path in tmp_path.iterdir()] == [TOKEN_NAME]

    def fault(**changes: Any) -> str:
        return fault_of_worker(type(token)(**{**vars(token), **changes})) or ""

    assert "instead of 0.0.1. Install the versions of" in fault(versions={"bonsai-prune": "0.0.1"})
    assert "torch" in fault(versions={"torch": "1.0"})
    assert "cannot read and write" in fault(directory=tmp_path / "elsewhere")
    assert "another directory has this name there" in fault(text="of another machine")


def test_runs_of_a_cluster_cannot_ask_for_it_themselves(sweep: Path, registry: Registry, tmp_path: Path) -> None:
    runs, place = runs_of(sweep, registry, {"executor": "ray"}), RayTasks(None, 1.0, None, registry)
    with pytest.raises(BonsaiError, match=r"Run 1, full, seed 0, has executor: ray, and the sweep has --executor ray"):
        run_sweep(runs, tmp_path, registry, Silent(), keep_models=False, place=place)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(None) as ray:
        yield ray


@needs_ray
def test_a_cluster_finds_the_same_though_a_worker_dies(
    cluster: Any, sweep: Path, alone: list[dict[str, Any]], registry: Registry, tmp_path: Path
) -> None:
    runs = runs_of(sweep, registry)
    killer, place = Killer(tmp_path, runs[0]), RayTasks(None, 1.0, None, registry)
    outcomes = run_sweep(runs, tmp_path, registry, killer, keep_models=False, place=place)
    assert killer.killed == 1
    assert any("Run 1, full, seed 0: its process or its node died" in text for text in killer.warnings)
    assert list(killer.errors) == ["broken"]
    assert [timeless(row) for row in gather(read_sweep(sweep), outcomes, "").rows] == alone
    assert not (tmp_path / TOKEN_NAME).exists()

    again = Watcher()
    run_sweep(runs, tmp_path, registry, again, keep_models=False, place=place)
    assert again.computed == [runs[1].name]


@needs_ray
def test_runs_that_no_node_has_room_for_are_refused(
    cluster: Any, sweep: Path, registry: Registry, tmp_path: Path
) -> None:
    place = RayTasks(None, 1000.0, 0.0, registry)
    with pytest.raises(BonsaiError, match="A run takes 1000 CPUs and 0 GPUs, and no node has them: at most"):
        run_sweep(runs_of(sweep, registry), tmp_path, registry, Silent(), keep_models=False, place=place)
