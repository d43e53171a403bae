"""The widths of a mixture's experts: all experts of a layer lose as many channels, each its own least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.storage.offloaded import changed, fetched
from bonsai_core.upstream import gated, is_offloaded


class ExpertWidths(Mixture):
    """The channels of one decoder layer's experts, which lie in one parameter and so are equally many.

    A unit is one channel of every expert. Channels are put together by rank: the first unit has each expert's strongest
    channel, as the norms of the weights into and out of it say; their numbers in different experts mean nothing.

    Legend for array shapes: E = experts, C = channels of one, T = tokens, K = experts that a token is sent to.
    """

    def __init__(self, layer: nn.Module, declared: ExpertsSite, load: Callable[[str], Tensor]) -> None:
        super().__init__(layer, declared, load)
        self.parameters = tuple(f"{declared.module}.{name}" for name in declared.weights)
        *self._inputs, self._output = self.parameters
        self._rank_EC = self._strength().argsort(dim=-1, descending=True, stable=True)

    @contextmanager
    def without(self, stay: Tensor) -> Iterator[None]:
        """What the other units put out is multiplied by zeros."""
        gone = torch.ones(self._rank_EC.shape[1], dtype=torch.bool).index_fill(0, stay, False)
        weight = self._layer.get_parameter(self._output).detach()
        columns = self._rank_EC[:, gone][:, None].expand(-1, weight.shape[1], -1)
        if is_offloaded(self.module):
            name = self._output.rpartition(".")[2]
            with changed(self.module, name, lambda whole: whole.scatter(-1, columns.to(whole.device), 0)):
                yield
            return
        columns = columns.to(weight.device)
        before = weight.gather(-1, columns)  # in place, since a copy of all experts may find no room
        try:
            weight.scatter_(-1, columns, 0)
            yield
        finally:
            weight.scatter_(-1, columns, before)

    def cut(self, parameter: str, whole: Tensor, stay: Tensor) -> Tensor:
        """What stays lies in the order of ranks."""
        channels_ES = self._rank_EC[:, stay].to(whole.device)
        dim = 2 if parameter == self._output else 1
        blocks = [_take(block, channels_ES, dim) for block in torch.split(whole, self._rank_EC.shape[1], dim)]
        return torch.cat(blocks, dim=dim)

    def slice(self, stay: Tensor) -> None:
        super().slice(stay)
        self.module.intermediate_dim = len(stay)
        self._rank_EC = torch.arange(len(stay), device=self._rank_EC.device).expand(len(self._rank_EC), -1)

    def weight(self) -> Tensor:
        """The experts' output projections, root mean squares over experts."""
        weight = self._load(self._output).detach()
        squares = torch.zeros(weight.shape[1:], device=weight.device)
        for expert, rank in zip(weight, self._rank_EC, strict=True):
            squares += expert[:, rank].float().square()
        return (squares / len(weight)).sqrt()[..., None]

    def use(self, args: tuple[Any, ...]) -> Tensor:
        """The norm over the experts that a token is sent to, of their channels' values times their weights."""
        hidden, chosen_TK, weights_TK = args
        squares = hidden.new_zeros((len(hidden), self._rank_EC.shape[1]), dtype=torch.float32)
        ranks_EC = self._rank_EC.to(hidden.device)
        (into,) = self._inputs
        weight = fetched(self.module, into.rpartition(".")[2])
        for number in chosen_TK.unique().tolist():
            token, place = torch.where(chosen_TK == number)
            inner = gated(self.module, nn.functional.linear(hidden[token], weight[number]))
            value = inner[:, ranks_EC[number]] * weights_TK[token, place, None]
            squares.index_add_(0, token, value.float().square())
        size: Tensor = squares.sqrt().to(hidden.dtype)
        return size

    def _strength(self) -> Tensor:
        """Of every channel of every expert, [E, C]: the product of the norms of its rows and its column."""
        output = self._load(self._output).detach()
        strength = torch.stack([expert.float().norm(dim=0) for expert in output])
        num_channels = output.shape[-1]
        del output
        for path in self._inputs:
            for block in torch.split(self._load(path).detach(), num_channels, 1):
                strength *= torch.stack([expert.float().norm(dim=1) for expert in block])
        return strength


def _take(block: Tensor, channels_ES: Tensor, dim: int) -> Tensor:
    """Some channels of each expert, of [experts, ...] with channels in dimension `dim`."""
    index = channels_ES.unsqueeze(3 - dim)
    shape = list(block.shape)
    shape[dim] = channels_ES.shape[1]
    return block.gather(dim, index.expand(shape))
