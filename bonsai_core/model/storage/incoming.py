"""Weights on their way from the CPU or a file to the device that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bonsai_core.model.storage.memory import read_in, staged
from bonsai_core.model.storage.offloaded import stored
from bonsai_core.upstream import execution_device, offloaded_weights


@dataclass
class Fetches:
    """How much was fetched of offloaded layers; what was prefetched counts when it is first used.

    Attributes:
        num_layers: layers that were put in place, each time that they were.
        num_experts: experts of mixtures; those that no token was sent to are not fetched.
        num_bytes: of all weights, as they are in place.
    """

    num_layers: int = 0
    num_experts: int = 0
    num_bytes: int = 0


class Incoming:
    """One weight of an offloaded module.

    Made by the thread that computes. Room on a CUDA device is taken there and then: the memory that a layer has just
    left is used again in the order of the device's work.

    Args:
        module: whose weight it is.
        name: of the weight.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self._module, self._name = module, name
        self._stand_in: nn.Parameter = getattr(module, name)  # on the meta device
        self._source = offloaded_weights(module)  # the turn of another layer may change it for a while
        self._device = execution_device(module)
        self._value: Tensor | None = None
        if self._device.type == "cuda":
            with torch.inference_mode(False):  # another thread is to write into it
                self._value = torch.empty_like(self._stand_in, device=self._device, requires_grad=False)
            self._is_free = torch.cuda.current_stream(self._device).record_event()

    def fetch(self) -> None:
        """Bring the weight; for any one thread.

        On the CPU, one that needs no other type is read in where it is mapped: it takes no second copy.

        Raises:
            BonsaiError: it cannot be read.
        """
        tensor = stored(self._source, self._name)
        if self._value is None:
            self._value = tensor.to(self._device, self._stand_in.dtype)
            if self._device.type == "cpu":
                read_in(self._value)
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # beside the layer that runs
        stream.wait_event(self._is_free)
        with torch.cuda.stream(stream):
            self._value.copy_(staged(tensor, self._stand_in.dtype), non_blocking=True)
        stream.synchronize()

    @contextmanager
    def in_place(self, fetches: Fetches) -> Iterator[None]:
        """The module has its weight, which must be fetched already; afterwards nothing holds it."""
        assert offloaded_weights(self._module) is self._source, "the weight was changed while it was fetched"
        assert self._value is not None
        fetches.num_bytes += self._value.nbytes
        setattr(self._module, self._name, nn.Parameter(self._value, self._stand_in.requires_grad))
        self._value = None
        try:
            yield
        finally:
            setattr(self._module, self._name, self._stand_in)
