"""Workers that are processes of this machine, one for each of its other devices."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, final

from joblib.externals.loky import ProcessPoolExecutor

from bonsai_core.executors.crew import Crew, Member

_workers: list[Any] = []
"""Of this process, where it is a worker's: one."""


@final
class ProcessMember(Member):
    """A pool of one process; where it dies, the pool breaks."""

    def __init__(self, worker: type, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        begin = (worker, plan, os.getpid())
        self._pool = ProcessPoolExecutor(max_workers=1, timeout=None, initializer=_begin, initargs=begin)

    def ask(self, method: str, *arguments: object) -> Future[Any]:
        try:
            future: Future[Any] = self._pool.submit(_call, method, arguments)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            future = Future()
            future.set_exception(error)
        return future

    def end(self) -> None:
        self._pool.shutdown(wait=False, kill_workers=True)


@final
class ProcessCrew(Crew):
    """A process for each device.

    Args:
        worker: what each process makes, from a plan.
        plans: one for each device.
        warn, welcome: see `Crew`.
    """

    def __init__(
        self,
        worker: type,
        plans: Sequence[Mapping[str, Any]],
        warn: Callable[[str], None],
        welcome: Callable[[Any], None],
    ) -> None:
        super().__init__(warn, welcome)
        self._worker = worker
        self._free = list(plans)
        self._num_workers = len(plans)

    def wanted(self) -> int:
        return self._num_workers

    def shared(self, value: Any) -> Any:
        return value

    def places(self) -> object:
        return None

    def _start(self) -> Member:
        return ProcessMember(self._worker, self._free.pop(0))

    def _buried(self, member: Member) -> None:
        assert isinstance(member, ProcessMember)
        self._free.append(member.plan)

    def _is_death(self, error: Exception) -> bool:
        return isinstance(error, BrokenProcessPool)

    def _told(self, error: Exception) -> Exception:
        return error

    def _why_alone(self) -> str:
        return "The other processes are still loading."


def _begin(worker: type, plan: Mapping[str, Any], parent: int) -> None:
    """Become a worker, for as long as the process lives that has started it."""
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    _workers.append(worker(plan))


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _call(method: str, arguments: Sequence[object]) -> Any:
    return getattr(_workers[0], method)(*arguments)
