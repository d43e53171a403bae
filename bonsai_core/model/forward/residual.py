"""By how much the sites of a layer miss the dense model's residual stream, the hidden states between sub-layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import combinations
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.lockstep import Lockstep, Stream
from bonsai_core.model.forward.moments import relative_rows, tensor_cores
from bonsai_core.model.subject import Subject
from bonsai_core.units import Site

ROUNDING = 0.05
"""Of what a layer adds to the residual stream: that much may be lost to bfloat16."""

Behind = Mapping[str, Tensor]
"""By site name, the residual stream behind the site, [windows, sequence, hidden]."""


@final
class Outputs:
    """What the output projections of a layer read and give in the call that the layer has just made."""

    def __init__(self, subject: Subject, number: int) -> None:
        self.sites = [s for s in subject.sites_present() if s.layer == number and s.has_output]
        self.complete = all(s.has_output or s.leaves_with_layer for s in subject.table if s.layer == number)
        self._subject = subject
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks that leave this of every call; no trace stays."""
        with ExitStack() as hooks:
            for site in self.sites:
                receive = partial(self._receive, site)
                hooks.enter_context(self._subject.output(site).register_forward_hook(receive))
            yield

    def _receive(self, site: Site, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        _, read = self._subject.reads(site)
        self.inputs[site.name], self.outputs[site.name] = read(args), output

    def add_up(self, before: Tensor, after: Tensor) -> bool:
        """Whether the layer does nothing with the outputs but add them to the residual stream."""
        change = (after - before).float()
        rest = change - sum(output.view_as(before).to(before.device).float() for output in self.outputs.values())
        return self.complete and bool(rest.norm() <= ROUNDING * change.norm())

    def behind(self, site: Site, after: Tensor) -> Tensor:
        """The residual stream behind a site, float32: what left the layer, without what later sites have added."""
        stream = after.float()
        for later in self.sites[self.sites.index(site) + 1 :]:
            stream = stream - self.outputs[later.name].view_as(after).to(stream)
        return stream


@final
class DenseStream:
    """Text on its way through the dense model's layers, beside the same text in the model under pruning.

    Close it, so that an exception leaves no weights behind.

    Args:
        lockstep: the dense model's.
        stream: the text in front of the first layer.
        beside: whether the dense model is another one than that under pruning, whose sweep its layers take part in
            otherwise.
    """

    def __init__(self, lockstep: Lockstep, stream: Stream, *, beside: bool) -> None:
        self._lockstep = lockstep
        self._stream = stream
        self._turns = lockstep.turns() if beside else None
        self._left = list(lockstep.subject.layers_present())
        self._adds_up = True

    def advance_to(self, number: int) -> Behind | None:
        """Put the text through the layers up to this one, and through it.

        Returns:
            The residual stream behind each of its sites; None if it does more with what they give than add it.
        """
        behind: Behind | None = None
        while self._left and self._left[0] <= number:
            turn = self._left.pop(0)
            if not self._adds_up:
                self._lockstep.skip(turn, self._stream)
                continue
            if self._turns is not None:
                next(self._turns)
            behind = self._advance(turn)
        return behind

    def close(self) -> None:
        """Leave the rest of the layers out."""
        for number in self._left:
            self._lockstep.skip(number, self._stream)
        if self._turns is not None:
            self._turns.close()

    def _advance(self, number: int) -> Behind | None:
        outputs = Outputs(self._lockstep.subject, number)
        behind = {site.name: torch.empty_like(self._stream.hidden_NTH) for site in outputs.sites}
        done, adds_up = 0, True

        def receive(before: Tensor, after: Tensor) -> None:
            nonlocal done, adds_up
            rows = slice(done, done + len(before))
            adds_up = adds_up and outputs.add_up(before, after)
            for site in outputs.sites:
                behind[site.name][rows] = outputs.behind(site, after)
            done = rows.stop

        with outputs.reading():
            self._lockstep.advance(number, self._stream, LayerLanes.unchanged(), receive)
        self._adds_up = adds_up or not outputs.complete  # if one layer does not, none does
        return behind if adds_up else None


@final
class LayerGaps:
    """Sums over tokens by which the sites of a layer can be brought closer to the dense model's residual stream.

    Args:
        number: the layer's.
        alive_U: the units alive, bool [U].
        dense: the dense model's side.
    """

    def __init__(self, subject: Subject, number: int, alive_U: NDArray[np.bool_], dense: Behind) -> None:
        self._subject = subject
        self._alive_U = alive_U
        self._dense = dense
        self._outputs = Outputs(subject, number)
        self._gaps: dict[str, Tensor] = {}
        self._changes: dict[str, Tensor] = {}
        self._across: dict[tuple[str, str], Tensor] = {}
        self._done = 0

    def reading(self) -> AbstractContextManager[None]:
        """Hooks that read what the layer's sites read and give; no trace stays."""
        return self._outputs.reading()

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add the chunk that the layer has just computed, from what entered and what left it."""
        rows = slice(self._done, self._done + len(before))
        inputs = {name: relative_rows(read, after) for name, read in self._outputs.inputs.items()}
        with tensor_cores(after.device):
            for site in self._outputs.sites:
                gap = self._dense[site.name][rows].float() - self._outputs.behind(site, after)
                _add(self._gaps, site.name, relative_rows(gap, after), inputs[site.name])
            for one, other in combinations(self._outputs.sites, 2):
                _add(self._across, (one.name, other.name), inputs[one.name], inputs[other.name])
        self._done = rows.stop

    def change(self, site: Site, change: Tensor) -> None:
        """Note what is added to a site's weight, float32 [out, channels of the units alive]; it counts for `of`."""
        before = self._changes.get(site.name)
        self._changes[site.name] = change if before is None else before + change

    def of(self, site: Site, moments: Tensor) -> Tensor:
        """What a site misses: the sum of e x' / |h|^2, float32 [out, channels of the units alive].

        Here x is what its output projection reads, h the token's hidden state behind the layer, and e by how much the
        dense model's residual stream behind the site differs from this model's, with what has changed in the layer.

        Args:
            moments: the sum of x x' / |h|^2 over the same tokens, of the units alive.
        """
        missing = self._alive(site, self._gaps[site.name])
        for one in self._outputs.sites[: self._outputs.sites.index(site) + 1]:
            if one.name not in self._changes:
                continue
            if one.name == site.name:
                across = moments
            else:
                across = self._alive(one, self._alive(site, self._across[one.name, site.name]).T).T
            missing = missing - self._changes[one.name] @ across.to(missing)
        return missing

    def _alive(self, site: Site, columns: Tensor) -> Tensor:
        """The columns of units alive, of [.., channels of the units that are there]."""
        by_unit = columns.view(len(columns), -1, site.unit_channels)
        return self._subject.select_alive(site, self._alive_U, by_unit, dim=1).flatten(1)


def _add(totals: dict[Any, Tensor], key: Any, left: Tensor, right: Tensor) -> None:
    """Add left' @ right to a total, in float32."""
    if key not in totals:
        totals[key] = left.new_zeros(left.shape[1], right.shape[1])
    totals[key].addmm_(left.T, right.to(left.device))
