"""The processes that adapt a model together, as torchrun and accelerate start them, and how they agree."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from bonsai_core.errors import BonsaiError

LONGEST_WAIT = timedelta(days=7)
"""For the first rank, which may measure or save for hours; one that dies is noticed at once."""
SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""What `accelerate launch` asks for in variables ACCELERATE_USE_*."""
Value = TypeVar("Value")


class OtherRankError(BonsaiError):
    """Another rank has failed, and says why itself."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this adaptation has ended early. What it wrote says why; if it wrote nothing, it was "
            "killed. What is saved is kept: bonsai resume continues it, with as many processes as you like."
        )


def launched() -> tuple[int, int]:
    """The number of this process, and how many a launcher has started; (0, 1) without one."""
    number, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if "LOCAL_RANK" not in os.environ or not (number.isdecimal() and count.isdecimal()):
        return 0, 1
    return int(number), int(count)


@dataclass(frozen=True)
class Ranks:
    """The processes of one adaptation.

    The first one owns the directory: it alone writes, measures, shows and publishes. The others compute their parts of
    the training and of what the teacher says, and learn everything else from it.

    Attributes:
        number: of this process, from 0.
        count: of the processes.
        group: through which they agree, of CPUs; None where there is one.
    """

    number: int = 0
    count: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process owns the directory."""
        return self.number == 0

    def share(self, compute: Callable[[], Value]) -> Value:
        """What the first rank computes, on all ranks; they wait for it.

        Raises:
            OtherRankError: on the others, if it could not; whatever `compute` raises, on the first.
        """
        if self.count == 1:
            return compute()
        if not self.is_first:
            return self._receive()  # type: ignore[no-any-return]
        try:
            value = compute()
        except BaseException:
            with suppress(OtherRankError):
                self._send(False, None)
            raise
        self._send(True, value)
        return value

    def in_turn(self, compute: Callable[[], Value]) -> Value:
        """What every rank computes for itself, after the first one has: a mistake is told of once, a file loaded once.

        Raises:
            OtherRankError: on the others, if the first could not; whatever `compute` raises.
        """
        values: list[Value] = []
        self.share(lambda: values.append(compute()))
        return values[0] if values else compute()

    def gather(self, value: Value) -> list[Value]:
        """What each rank has, in their order; all wait for each other.

        Raises:
            OtherRankError: one has ended.
        """
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        with _noticing_ends():
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def _send(self, done: bool, value: Any) -> None:
        from torch import distributed

        with _noticing_ends():
            distributed.broadcast_object_list([done, value], src=0, group=self.group)

    def _receive(self) -> Any:
        from torch import distributed

        received: list[Any] = [None, None]
        with _noticing_ends():
            distributed.broadcast_object_list(received, src=0, group=self.group)
        done, value = received
        if not done:
            raise OtherRankError
        return value


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that a launcher has started; one without a launcher. They stay connected until the process ends.

    Raises:
        BonsaiError: the launcher asks for what cannot be had, or the ranks cannot reach each other.
        OtherRankError: another rank has ended, in the middle of what they compute together.
    """
    number, count = launched()
    _refuse_sharding(number)
    ranks = ALONE if count == 1 else _connected(number, count)
    try:
        yield ranks
    except BaseException as error:
        # The others may be anywhere, and NCCL would wait for them; that the process ends tells them.
        atexit.unregister(_disconnect)
        if count > 1 and isinstance(error, RuntimeError):
            from bonsai_core.upstream import is_broken_connection

            if is_broken_connection(error):
                raise OtherRankError from error
        raise


@cache
def _connected(number: int, count: int) -> Ranks:
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        gpus = torch.cuda.device_count()
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
        except (RuntimeError, ValueError) as error:
            raise BonsaiError(
                f"Process {number} cannot reach the others: {str(error).splitlines()[0]}. On several machines, "
                f"GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface that all of them are in."
            ) from error
        atexit.register(_disconnect)
    with _noticing_ends():
        group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return Ranks(number, count, group)


def _disconnect() -> None:
    from torch import distributed

    distributed.destroy_process_group()


def _refuse_sharding(number: int) -> None:
    asked = [name for name in SHARDING if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1", "yes")]
    if not asked:
        return
    if number:
        raise OtherRankError
    raise BonsaiError(
        f"The launcher asks for {asked[0]}, and adaptations shard a model themselves: launch with --multi_gpu, or "
        f"torchrun --nproc-per-node N, and give --method full --shard. Other ways to need less memory: --method lora, "
        f"--gradient-checkpointing, --micro-batch-size 1."
    )


@contextmanager
def _noticing_ends() -> Iterator[None]:
    """Connections break where the process at their other end has ended."""
    try:
        yield
    except RuntimeError as error:
        raise OtherRankError from error
