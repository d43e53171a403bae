"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, final

import ray
import torch
from ray.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError
from torch import Tensor

from bonsai_core.contracts import Repair
from bonsai_core.errors import BonsaiError
from bonsai_core.executors.crew import Crew, Member, first_line

WORDS_OF_16_BITS = torch.int16
"""What numbers of types that numpy does not know are sent as."""


@final
class RayMember(Member):
    """An actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, method: str, *arguments: object) -> Future[Any]:
        future: Future[Any] = getattr(self._actor, method).remote(*arguments).future()
        return future

    def end(self) -> None:
        ray.kill(self._actor)


@final
class RayCrew(Crew):
    """Actors of the cluster that this process is connected with; see `ray_cluster`.

    Those that do not fit into it yet join when there is room.

    Args:
        worker: the actors' class.
        plan: what its constructor takes.
        workers: how many; None for as many as the cluster has room for, more if it grows.
        num_cpus, num_gpus: of each.
        warn, welcome: see `Crew`.
    """

    def __init__(
        self,
        worker: type,
        plan: Mapping[str, Any],
        workers: int | None,
        num_cpus: int,
        num_gpus: int,
        warn: Callable[[str], None],
        welcome: Callable[[Any], None],
    ) -> None:
        super().__init__(warn, welcome)
        self._needs = {"CPU": num_cpus, "GPU": num_gpus}
        self._workers = workers
        # Handed out again by the crew, not by Ray, so that a batch need not wait for its actor to be loaded anew.
        self._actor = ray.remote(worker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        self._plan = ray.put(dict(plan))

    def wanted(self) -> int:
        return self.has_room() if self._workers is None else self._workers

    def has_room(self) -> int:
        """How many workers fit into the cluster as it is now."""
        alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
        return sum(min(int(node.get(what, 0) // n) for what, n in self._needs.items() if n) for node in alive)

    def shared(self, value: Any) -> Any:
        return _put(value)

    def places(self) -> object:
        return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])

    def _buried(self, member: Member) -> None:
        """Ray has room for another one by itself."""

    def _start(self) -> Member:
        return RayMember(self._actor.remote(self._plan))

    def _is_death(self, error: Exception) -> bool:
        if isinstance(error, RayTaskError):
            return isinstance(error.cause, ObjectLostError)
        return isinstance(error, RayError)

    def _told(self, error: Exception) -> Exception:
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, Exception) else error

    def _why_alone(self) -> str:
        needs = {what: number for what, number in self._needs.items() if number}
        each = " and ".join(f"{number} {what}{'s' if number > 1 else ''}" for what, number in needs.items())
        total, free = ray.cluster_resources(), ray.available_resources()
        left = " and ".join(f"{free.get(what, 0):g} of {total.get(what, 0):g} {what}s" for what in needs)
        return (
            f"No worker is ready yet: they still load the model, or wait for room. Each takes {each} of one node; free "
            f"in the cluster are {left}. This process waits."
        )


@final
class RayRepairs:
    """Repairs in Ray's object store, by name: one process writes them, the others receive where they are."""

    def __init__(self) -> None:
        self._refs: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._refs

    def save_repair(self, name: str, repair: Repair) -> None:
        """Write a repair.

        Raises:
            BonsaiError: the object store is full.
        """
        given = {"weight": repair.weight, "bias": repair.bias}
        packed = {what: _packed(tensor) for what, tensor in given.items() if tensor is not None}
        self._refs[name] = _put(packed)

    def load_repair(self, name: str, device: torch.device) -> Repair:
        """A repair, on a device."""
        packed = ray.get(self._refs[name])
        return Repair(**{what: _unpacked(*parts).to(device) for what, parts in packed.items()})


def _put(value: Any) -> Any:
    """A reference to a value in the object store.

    Raises:
        BonsaiError: the object store is full.
    """
    try:
        return ray.put(value)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise BonsaiError(
            f"Ray's object store is full, and so is the disk that it spills to ({first_line(error)}). Make "
            f"room, or start the cluster with more: ray start --object-store-memory BYTES; then resume the run."
        ) from error


def _packed(tensor: Tensor) -> tuple[Any, str]:
    """Numbers as numpy has them, which a node's workers read where they are; and the name of their type."""
    plain = tensor.detach().cpu().contiguous()
    as_numpy = plain.view(WORDS_OF_16_BITS) if plain.dtype == torch.bfloat16 else plain
    return as_numpy.numpy(), str(plain.dtype).removeprefix("torch.")


def _unpacked(numbers: Any, dtype: str) -> Tensor:
    return torch.tensor(numbers).view(getattr(torch, dtype))
