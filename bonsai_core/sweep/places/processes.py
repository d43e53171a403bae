"""Runs of a sweep in processes of this machine, several at a time, each on a GPU of its own where there are several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import final

import torch

from bonsai_core.events import Event
from bonsai_core.registry.registry import Registry
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.places.child import do_tasks, log_path
from bonsai_core.sweep.places.place import Ended, Listener, Place, Task, after_death
from bonsai_core.sweep.places.worker import refuse_plugins_by_hand

GRACE_S = 15.0
"""Time that an interrupted run has to end by itself."""
LOOK_S = 1.0
"""A process that died is noticed after this time at the latest."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    gpu: str | None


@final
class Processes(Place):
    """Processes of this machine.

    Args:
        jobs: runs at a time.
        registry: what this process knows; the others load the installed plugins.
    """

    is_here = True
    several = True

    def __init__(self, jobs: int, registry: Registry) -> None:
        self._jobs = jobs
        self._registry = registry
        self._gpus = _gpus()
        self._idle: list[_Worker] = []
        self._working: dict[Connection, tuple[_Worker, Task]] = {}

    def complete(self, tasks: Sequence[Task], listener: Listener) -> Ended:
        refuse_plugins_by_hand(tasks, self._registry)
        waiting = deque(tasks)
        try:
            while waiting or self._working:
                while waiting and len(self._working) < self._jobs:
                    self._begin(waiting.popleft(), listener)
                for worker, task in self._with_news():
                    message = _received(worker)
                    match message:
                        case Outcome():
                            del self._working[worker.connection]
                            self._idle.append(worker)
                            _remove_log(task)
                            yield task, message
                        case None:
                            del self._working[worker.connection]
                            next_step = after_death(task, _death(worker, task), listener)
                            if isinstance(next_step, Task):
                                waiting.appendleft(next_step)
                            else:
                                yield task, next_step
                        case events:
                            for event in events:
                                listener.event(task.number, event)
        finally:
            self._end()

    def _begin(self, task: Task, listener: Listener) -> None:
        worker = self._idle.pop() if self._idle else self._new_worker(_log(task))
        self._working[worker.connection] = worker, task
        listener.started(task.number, task.run)
        with suppress(OSError):  # it has died, which is noticed as if it had died later
            worker.connection.send(task)

    def _new_worker(self, log: Path) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=do_tasks, args=(theirs, log))
        used = Counter(worker.gpu for worker, _ in self._working.values())
        gpu = min(self._gpus, key=lambda name: used[name], default=None)
        with _environment(self._variables(gpu)):
            process.start()
        theirs.close()
        return _Worker(process, ours, gpu)

    def _variables(self, gpu: str | None) -> Mapping[str, str]:
        threads = str(max(1, (os.cpu_count() or 1) // self._jobs))
        return {THREADS: os.environ.get(THREADS, threads), **({} if gpu is None else {VISIBLE: gpu})}

    def _with_news(self) -> list[tuple[_Worker, Task]]:
        """Those that have sent something, or died; waits for one."""
        ready = wait(list(self._working), timeout=LOOK_S)
        dead = [connection for connection, (worker, _) in self._working.items() if worker.process.exitcode is not None]
        return [self._working[connection] for connection in self._working if connection in (*ready, *dead)]

    def _end(self) -> None:
        """End all processes: first as Ctrl-C would, then by force."""
        workers = [*self._idle, *(worker for worker, _ in self._working.values())]
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        for _, task in self._working.values():
            _remove_log(task)
        self._idle, self._working = [], {}


def _received(worker: _Worker) -> Outcome | Sequence[Event] | None:
    """Events, or the outcome; None if the process has died."""
    try:
        if worker.connection.poll():  # a process that it started may still have its end
            message: Outcome | Sequence[Event] = worker.connection.recv()
            return message
    except (EOFError, OSError):
        pass
    worker.process.join()
    worker.connection.close()
    return None


def _death(worker: _Worker, task: Task) -> str:
    code = worker.process.exitcode or 0
    if code >= 0:
        return f"ended with exit status {code} (see {_log(task)})"
    name = signal.Signals(-code).name
    why = ", as systems do when memory runs out: fewer --jobs leave more to each run" if name == "SIGKILL" else ""
    return f"was killed by {name}{why}"


def _log(task: Task) -> Path:
    return log_path(task.directory, task.run.name)


def _remove_log(task: Task) -> None:
    """Of a process that has not died: the outcome says all."""
    _log(task).unlink(missing_ok=True)
    with suppress(OSError):  # there are others in the folder
        _log(task).parent.rmdir()


def _gpus() -> list[str]:
    """The names of this machine's GPUs that this process may use, if there are several."""
    if torch.cuda.device_count() < 2:
        return []
    given = os.environ.get(VISIBLE)
    return given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """While open, processes that are started have these variables: libraries read them before any of our code runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
