"""A run by a number of workers, timed by its events; and what a call costs that does nothing."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core import Registry, RunConfig, hookimpl, run
from bonsai_core.events import Event, Journaled, RoundFinished, Stage, StageStarted, SubmodelMeasured
from bonsai_core.executors.ray_cluster import ray_cluster

CALLS = 200
STAGES = (Stage.PRIOR, Stage.MEASURE, Stage.SELECT, Stage.SEARCH, Stage.REPAIR)
"""Of a round, in their order."""


@dataclass
class Clock:
    """Times the stages of rounds, and the arrival of sub-models, by a run's events.

    Attributes:
        seconds: of a stage in a round.
        arrivals: of a round's batches: (seconds since the sub-models' stage began, sub-models).
        shared_bytes: what was put into Ray's object store, by stage and round.
    """

    seconds: defaultdict[tuple[int, Stage], float] = field(default_factory=lambda: defaultdict(float))
    arrivals: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    shared_bytes: Counter[tuple[int, Stage]] = field(default_factory=Counter)
    _now: tuple[int, Stage] = (0, Stage.DENSE)
    _since: float = 0.0
    _weighs: bool = False

    @hookimpl
    def bonsai_observe(self, event: Event) -> None:
        time_s = time.perf_counter()
        match event:
            case StageStarted(stage=stage, round=number):
                self._end(time_s, (number, stage))
                if "ray" in sys.modules and not self._weighs:
                    self._weigh_what_is_put(sys.modules["ray"])
            case RoundFinished():
                self._end(time_s, (0, Stage.SAVE))
            case Journaled(key=key) if "/submodels-" in key:
                self.arrivals.setdefault(self._now[0], []).append((time_s - self._since, 0))
            case SubmodelMeasured(round=number):
                arrived_s, submodels = self.arrivals[number].pop()
                self.arrivals[number].append((arrived_s, submodels + 1))

    def _end(self, time_s: float, following: tuple[int, Stage]) -> None:
        self.seconds[self._now] += time_s - self._since
        self._now, self._since = following, time_s

    def _weigh_what_is_put(self, ray: Any) -> None:
        put, self._weighs = ray.put, True

        def weigh(value: Any) -> Any:
            self.shared_bytes[self._now] += num_bytes(value)
            return put(value)

        ray.put = weigh


def num_bytes(value: Any) -> int:
    """Of the arrays and tensors in a value."""
    if isinstance(value, Mapping):
        return sum(num_bytes(each) for each in value.values())
    if isinstance(value, list | tuple):
        return sum(num_bytes(each) for each in value)
    if hasattr(value, "__dataclass_fields__"):
        return sum(num_bytes(getattr(value, name)) for name in value.__dataclass_fields__)
    return int(getattr(value, "nbytes", 0))


@dataclass(frozen=True)
class Timed:
    """A run, by the rounds after the first one, in which workers are still loading.

    Attributes:
        workers: 0 for a run in one process.
        rounds: that count.
        submodels: of a round.
        seconds: of a stage in a round, on average.
        batches: of a round, on average.
        submodel_s: that a worker takes for a sub-model, in batches; nan where each worker had but one batch.
        loading_s: by which the first sub-models of the first round arrived later than those of other rounds.
        stored_mb: what a round puts into the object store, which every node reads, in MB.
        units: of the model.
    """

    workers: int
    rounds: int
    submodels: float
    seconds: dict[str, float]
    batches: float
    submodel_s: float
    loading_s: float
    stored_mb: float
    units: int

    @property
    def round_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def submodels_per_s(self) -> float:
        """Over their whole stage, repairs included."""
        return self.submodels / self.seconds[Stage.MEASURE]

    @property
    def serial_s(self) -> float:
        """Seconds of a round in which nobody measures sub-models."""
        return self.round_s - self.submodels * self.submodel_s / self.workers


def timed(settings: Mapping[str, Any], workers: int) -> Timed:
    """Prune a model, and throw away the result.

    Args:
        settings: of the run, which has two rounds or more.
        workers: of a private Ray cluster; 0 to measure in this process.
    """
    spread = {"executor": "ray", "workers": workers} if workers else {}
    clock, registry = Clock(), Registry()
    registry.register(clock, "the benchmark")
    with tempfile.TemporaryDirectory(prefix="bonsai-scaling-") as folder:
        given = {**settings, **spread, "latency": False, "page": False, "out": Path(folder, "run")}
        run(RunConfig.from_mapping(given, "the options"), registry=registry)
        with np.load(Path(folder, "run", "round-001", "selection.npz")) as selection:
            units = selection["keep_U"].size
    first, *rest = sorted(clock.arrivals)
    later = [_after_the_first(clock.arrivals[number], max(1, workers)) for number in rest]
    after_s, after = (sum(each) for each in zip(*later, strict=True))
    return Timed(
        workers=workers,
        rounds=len(rest),
        submodels=sum(count for number in rest for _, count in clock.arrivals[number]) / len(rest),
        seconds={stage: sum(clock.seconds[number, stage] for number in rest) / len(rest) for stage in STAGES},
        batches=sum(len(clock.arrivals[number]) for number in rest) / len(rest),
        submodel_s=after_s / after if after else float("nan"),
        loading_s=clock.arrivals[first][0][0] - float(np.mean([clock.arrivals[number][0][0] for number in rest])),
        stored_mb=sum(clock.shared_bytes[number, stage] for number in rest for stage in STAGES) / len(rest) / 1e6,
        units=units,
    )


def _after_the_first(arrivals: Sequence[tuple[float, int]], workers: int) -> tuple[float, int]:
    """(seconds of all workers, sub-models) after the first batch of each, which waits for repairs to be computed."""
    (start_s, _), (end_s, _) = arrivals[min(workers, len(arrivals)) - 1], arrivals[-1]
    return workers * (end_s - start_s), sum(count for _, count in arrivals[workers:])


class Idle:
    """A worker that does nothing."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        pass

    def about(self) -> str:
        return ""

    def measure(self, keep_MU: NDArray[np.bool_]) -> int:
        return len(keep_MU)


@dataclass(frozen=True)
class Overhead:
    """What handing out a call costs.

    Attributes:
        start_s: until a worker that loads nothing is ready.
        call_s: of an empty call and its answer.
        mb_s: more, for each MB that a call carries.
    """

    start_s: float
    call_s: float
    mb_s: float


def overhead() -> Overhead:
    """Measure a private cluster of one worker."""
    with ray_cluster(None):
        from bonsai_core.executors.ray_crew import RayCrew

        crew = RayCrew(Idle, {}, 1, 1, 0, print, lambda device: None)

        def seconds(*calls: tuple[object, ...]) -> float:
            start = time.perf_counter()
            list(crew.answers(calls))
            return time.perf_counter() - start

        start_s = seconds(("about",))
        call_s = seconds(*[("about",)] * CALLS) / CALLS
        large = np.zeros((10, 1_000_000), dtype=np.bool_)
        large_s = seconds(*[("measure", large)] * (CALLS // 10)) / (CALLS // 10)
        crew.close()
    return Overhead(start_s, call_s, max(0.0, large_s - call_s) / (large.nbytes / 1e6))
