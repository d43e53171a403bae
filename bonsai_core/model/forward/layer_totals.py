"""Sums over all tokens of what the sites of a layer read, or of what enters and leaves it, while text goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import (
    Compensator,
    InputCompensator,
    InputPrior,
    LayerPrior,
    MomentCompensator,
    MomentPrior,
    Prior,
    Statistic,
    TextCompensator,
    TextPrior,
)
from bonsai_core.model.forward.moments import add_moments, finished_moments
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site

Reader = Prior | Compensator
_Read = Callable[[tuple[Any, ...]], Tensor]
MOMENTS = "second moments"


def statistic_of(reader: Reader) -> str | None:
    """Tells the statistics apart that plugins read of text; None for a plugin that reads none."""
    if isinstance(reader, MomentPrior | MomentCompensator):
        return MOMENTS
    reads = isinstance(reader, TextPrior | TextCompensator)
    return f"{type(reader).__module__}.{type(reader).__qualname__}({reader!r})" if reads else None


class Partial(NamedTuple):
    """What a block of windows adds to a layer's totals.

    Attributes:
        totals: by the name of the site; of a layer prior by that of the layer's first one.
        num_tokens: of the block.
    """

    totals: Mapping[str, Tensor]
    num_tokens: int


@final
class LayerTotals:
    """What a prior or a compensator gets of one layer's sites, while chunks of text go through the layer.

    Blocks of windows are summed first, and then added in order. So a block may be summed elsewhere (`partial`) and
    added here (`include`), with the same result.

    Args:
        number: the layer's.
        reader: it must read text.
        alive_U: the units alive, bool [U]; others, where slicing waits, are left out.
        of: the sites that it is about; None for all of the layer.
        block: windows of a block; None for all of them.
    """

    def __init__(
        self,
        subject: Subject,
        number: int,
        reader: Reader,
        alive_U: NDArray[np.bool_],
        of: Collection[Site] | None = None,
        block: int | None = None,
    ) -> None:
        self._subject = subject
        self._alive_U = alive_U
        here = (site for site in subject.sites_present() if site.layer == number and alive_U[site.units].any())
        self._sites = [site for site in here if of is None or site in of]
        # What a layer prior accumulates is of the layer: computed once, and the same for all its sites.
        self._of_layer = isinstance(reader, LayerPrior)
        self._summed = self._sites[:1] if self._of_layer else self._sites
        self._sum = _sum_for(reader)
        self._inputs: dict[str, Tensor] = {}  # overwritten, not added to, when a chunk is repeated after an error
        self._block = block
        self._in_block = 0  # windows
        self._of_block: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}
        self._num_tokens = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks by which every call of the layer leaves what its sites read; no trace stays."""
        with ExitStack() as hooks:
            for site in () if self._of_layer else self._sites:
                module, read = self._subject.reads(site)
                hooks.enter_context(module.register_forward_pre_hook(partial(self._receive, site, read)))
            yield

    def _receive(self, site: Site, read: _Read, module: object, args: tuple[Any, ...]) -> None:
        self._inputs[site.name] = read(args)

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add the chunk that the layer has just computed, from what entered and what left it."""
        self._num_tokens += before[..., 0].numel()
        for site in self._summed:
            inputs = None if self._of_layer else self._inputs.pop(site.name)
            self._of_block[site.name] = self._sum.added(self._of_block.get(site.name), site, inputs, before, after)
        self._in_block += len(before)
        if self._block is not None and self._in_block >= self._block:
            self._end_block()

    def partial(self) -> Partial:
        """What has been added so far, on the CPU."""
        self._end_block()
        return Partial({name: total.cpu() for name, total in self._totals.items()}, self._num_tokens)

    def include(self, partial: Partial) -> None:
        """Add what was summed elsewhere, of the next block."""
        self._num_tokens += partial.num_tokens
        self._add({name: total.to(self._subject.device) for name, total in partial.totals.items()})

    def result(self) -> Mapping[str, Statistic]:
        """What the reader receives, by site name.

        Raises:
            BonsaiError: a site reads numbers that are not finite.
        """
        self._end_block()
        return {site.name: Statistic(self._finished(site), self._num_tokens) for site in self._sites}

    def _end_block(self) -> None:
        self._add(self._of_block)
        self._of_block, self._in_block = {}, 0

    def _add(self, totals: Mapping[str, Tensor]) -> None:
        for name, total in totals.items():
            if name in self._totals:
                self._totals[name] += total
            else:
                self._totals[name] = total

    def _finished(self, site: Site) -> Tensor:
        total = self._totals[self._summed[0].name if self._of_layer else site.name].to(self._subject.device)
        return self._sum.finished(self._subject, site, self._alive_U, total)


class _Sum(ABC):
    """How one kind of statistic adds up."""

    @abstractmethod
    def added(self, total: Tensor | None, site: Site, inputs: Tensor | None, before: Tensor, after: Tensor) -> Tensor:
        """A total with a chunk: what the site read, [.., tokens, channels], what entered and what left the layer."""

    @abstractmethod
    def finished(self, subject: Subject, site: Site, alive_U: NDArray[np.bool_], total: Tensor) -> Tensor:
        """What a plugin receives."""


@final
class _Moments(_Sum):
    """Second moments, see `MomentPrior`."""

    def added(self, total: Tensor | None, site: Site, inputs: Tensor | None, before: Tensor, after: Tensor) -> Tensor:
        assert inputs is not None
        return add_moments(total, inputs, after)

    def finished(self, subject: Subject, site: Site, alive_U: NDArray[np.bool_], total: Tensor) -> Tensor:
        return finished_moments(subject, site, alive_U, total)


@final
class _OfInputs(_Sum):
    """What a plugin accumulates of each site's inputs, in the widest float of the device."""

    def __init__(self, reader: InputPrior | InputCompensator) -> None:
        self._reader = reader

    def added(self, total: Tensor | None, site: Site, inputs: Tensor | None, before: Tensor, after: Tensor) -> Tensor:
        assert inputs is not None
        by_unit = inputs.float().reshape(-1, inputs.shape[-1] // site.unit_channels, site.unit_channels)
        return _plus(total, self._reader.accumulate(by_unit))

    def finished(self, subject: Subject, site: Site, alive_U: NDArray[np.bool_], total: Tensor) -> Tensor:
        return subject.select_alive(site, alive_U, total, dim=0)


@final
class _OfLayer(_Sum):
    """What a plugin accumulates of the hidden states around a layer; all its sites receive the same."""

    def __init__(self, reader: LayerPrior) -> None:
        self._reader = reader

    def added(self, total: Tensor | None, site: Site, inputs: Tensor | None, before: Tensor, after: Tensor) -> Tensor:
        flat = [states.float().reshape(-1, states.shape[-1]) for states in (before, after)]
        return _plus(total, self._reader.accumulate(*flat))

    def finished(self, subject: Subject, site: Site, alive_U: NDArray[np.bool_], total: Tensor) -> Tensor:
        return total


def _sum_for(reader: Reader) -> _Sum:
    if isinstance(reader, MomentPrior | MomentCompensator):
        return _Moments()
    if isinstance(reader, LayerPrior):
        return _OfLayer(reader)
    assert isinstance(reader, InputPrior | InputCompensator)  # the registry admits no others
    return _OfInputs(reader)


def _plus(total: Tensor | None, statistic: Tensor) -> Tensor:
    wide = statistic.to(torch.float32 if statistic.device.type == "mps" else torch.float64)
    return wide if total is None else total + wide
