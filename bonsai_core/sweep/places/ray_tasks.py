"""Runs of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.events import Event, Warned
from bonsai_core.executors.ray_cluster import on_node, ray_cluster
from bonsai_core.registry.registry import Registry
from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.places.place import Ended, Listener, Place, Task, after_death
from bonsai_core.sweep.places.ray_check import Token, fault_of_worker, write_token
from bonsai_core.sweep.places.worker import perform, refuse_plugins_by_hand

LOOK_S = 0.25
GRACE_S = 15.0
"""Time that an interrupted run has to end by itself."""
CHECK_S = 120.0
"""Time that a node has to start a process and look at the directory."""


@final
class RayTasks(Place):
    """A Ray cluster; each run is one task.

    Args:
        address: as for `ray_cluster`.
        num_cpus, num_gpus: that a run takes; of GPUs None: one where the cluster has any.
        registry: what this process knows; the others load the installed plugins.
    """

    is_here = False
    several = True

    def __init__(self, address: str | None, num_cpus: float, num_gpus: float | None, registry: Registry) -> None:
        self._address = address
        self._num_cpus, self._num_gpus = num_cpus, num_gpus
        self._registry = registry

    def complete(self, tasks: Sequence[Task], listener: Listener) -> Ended:
        refuse_plugins_by_hand(tasks, self._registry)
        _refuse_ray_inside(tasks)
        with ray_cluster(self._address) as ray:
            needs = self._needs(ray)
            nodes = self._nodes_with(needs, ray, tasks[0].number, listener)
            with _token(tasks[0].directory) as token:
                _check_nodes(nodes, token, ray)
                yield from _Work(ray, needs, token, listener).complete(tasks)

    def _needs(self, ray: Any) -> Mapping[str, float]:
        """What a run takes, by the names of Ray's resources."""
        gpus = self._num_gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        return {"CPU": self._num_cpus, "GPU": gpus}

    def _nodes_with(self, needs: Mapping[str, float], ray: Any, first: int, listener: Listener) -> Mapping[str, str]:
        """The nodes on which a run may be placed, with their addresses."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        able = [node for node in alive if all(node["Resources"].get(kind, 0) >= need for kind, need in needs.items())]
        if not able:
            most = {kind: max(node["Resources"].get(kind, 0) for node in alive) for kind in needs}
            what = (
                f"A run takes {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs, and no node has them: at most "
                f"{most['CPU']:g} CPUs and {most['GPU']:g} GPUs."
            )
            if self._address is None:
                raise BonsaiError(f"{what} Lower --num-cpus or --num-gpus, or name a cluster with --ray-address.")
            listener.event(first, Warned(f"{what} The runs wait for a node that joins the cluster."))
        return {node["NodeID"]: node["NodeManagerAddress"] for node in able}


@final
class _Work:
    """The runs of a sweep that a cluster is working on."""

    def __init__(self, ray: Any, needs: Mapping[str, float], token: Token, listener: Listener) -> None:
        from ray.util.queue import Queue

        self._ray, self._token, self._listener = ray, token, listener
        here = on_node(ray.get_runtime_context().get_node_id())
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        needed = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}
        self._performed = ray.remote(**needed, max_retries=0)(_performed)
        self._working: dict[Any, Task] = {}

    def complete(self, tasks: Sequence[Task]) -> Ended:
        """Complete all runs."""
        self._runs = {task.number: task.run for task in tasks}
        try:
            for task in tasks:
                self._submit(task)
            while self._working:
                ended, _ = self._ray.wait(list(self._working), num_returns=1, timeout=LOOK_S)
                self._tell()
                for reference in ended:
                    task = self._working.pop(reference)
                    outcome = self._outcome(reference, task)
                    if isinstance(outcome, Task):
                        self._submit(outcome)
                    else:
                        yield task, outcome
        finally:
            self._end()

    def _submit(self, task: Task) -> None:
        self._working[self._performed.remote(task, self._token, self._queue)] = task

    def _tell(self) -> None:
        """Tell the listener what runs have sent."""
        for number, events in self._queue.get_nowait_batch(self._queue.qsize()):
            if events is None:
                self._listener.started(number, self._runs[number])
            for event in events or ():
                self._listener.event(number, event)

    def _outcome(self, reference: Any, task: Task) -> Outcome | Task:
        try:
            outcome: Outcome = self._ray.get(reference)
            return outcome
        except self._ray.exceptions.RayTaskError as error:
            return Outcome(task.run, error=_last_line(error))
        except self._ray.exceptions.RayError as error:
            return after_death(task, f"or its node died ({_first_sentence(error)})", self._listener)

    def _end(self) -> None:
        """End what goes on: first as Ctrl-C would, then by force."""
        for force in (False, True):
            for reference in self._working:
                self._ray.cancel(reference, force=force)
            if self._working:
                _, left = self._ray.wait(list(self._working), num_returns=len(self._working), timeout=GRACE_S)
                self._working = {reference: self._working[reference] for reference in left}
        self._queue.shutdown(force=True)


def _performed(task: Task, token: Token, queue: Any) -> Outcome:
    """A run, in a worker's process; None in its place says that it begins."""
    queue.put((task.number, None))
    if fault := fault_of_worker(token):
        return Outcome(task.run, error=fault)

    def send(events: Sequence[Event]) -> None:
        queue.put((task.number, events))

    return perform(task, send)


@contextmanager
def _token(directory: Path) -> Iterator[Token]:
    try:
        token = write_token(directory)
    except OSError as error:
        raise BonsaiError(f"Cannot write to {directory}: {error.strerror}. Choose another --out.") from error
    try:
        yield token
    finally:
        token.path.unlink(missing_ok=True)


def _check_nodes(nodes: Mapping[str, str], token: Token, ray: Any) -> None:
    """Check, before the first run, that each node can do runs; a node that joins later is checked by its runs.

    Raises:
        BonsaiError: one cannot.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(fault_of_worker)
    looks = [look.options(scheduling_strategy=on_node(node)).remote(token) for node in nodes]
    for address, reference in zip(nodes.values(), looks, strict=True):
        try:
            fault = ray.get(reference, timeout=CHECK_S)
        except ray.exceptions.RayError as error:
            fault = (
                f"The Ray node {address} cannot run Bonsai ({_last_line(error)}). Install bonsai-prune "
                f"{token.versions['bonsai-prune']} in the Python that Ray uses there."
            )
        if fault is not None:
            raise BonsaiError(fault)


def _refuse_ray_inside(tasks: Sequence[Task]) -> None:
    for task in tasks:
        if task.run.config.executor == "ray":
            raise BonsaiError(
                f"Run {task.number}, {task.run}, has executor: ray, and the sweep has --executor ray: they would wait "
                f"for each other's CPUs. Take executor out of the sweep's file to have one run per task, or start the "
                f"sweep with --executor local to have one run after the other, each on the whole cluster."
            )


def _first_sentence(error: Exception) -> str:
    return shortened(re.split(r"\.\s", str(error).strip())[0].rstrip(".")) or type(error).__name__


def _last_line(error: Exception) -> str:
    """What is wrong, of an error that came from elsewhere with its traceback."""
    return shortened(str(error).strip().rpartition("\n")[2])
