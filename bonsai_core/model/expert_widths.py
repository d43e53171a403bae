"""The widths of a mixture's experts: all experts of a layer lose as many channels, each its own least."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bonsai_core.contracts import ExpertsSite
from bonsai_core.model.pages import give_back


class ExpertWidths:
    """The channels of one decoder layer's experts, which lie in one parameter and so are equally many.

    A unit is one channel of every expert. Channels are put together by rank: the first unit has each expert's strongest
    channel, as the norms of the weights into and out of it say; their numbers in different experts mean nothing.

    Args:
        layer: the decoder layer.
        declared: where the experts are.

    Legend for array shapes: E = experts, C = channels of one, T = tokens, K = experts that a token is sent to.
    """

    def __init__(self, layer: nn.Module, declared: ExpertsSite) -> None:
        self.module: Any = layer.get_submodule(declared.module)
        *self._inputs, self._output = declared.weights
        self._rank_EC = self._strength().argsort(dim=-1, descending=True, stable=True)

    @contextmanager
    def without(self, stay: Tensor) -> Iterator[None]:
        """The layer with only some of the units: what the others put out is multiplied by zeros.

        Args:
            stay: numbers of those units that stay, int64.
        """
        gone = torch.ones(self._rank_EC.shape[1], dtype=torch.bool).index_fill(0, stay, False)
        weight = getattr(self.module, self._output).detach()
        columns = self._rank_EC[:, gone][:, None].expand(-1, weight.shape[1], -1)
        before = weight.gather(-1, columns)
        try:
            weight.scatter_(-1, columns, 0)
            yield
        finally:
            weight.scatter_(-1, columns, before)

    def slice(self, stay: Tensor) -> None:
        """Remove all other units, in place, one parameter at a time; what stays lies in the order of ranks."""
        channels_ES = self._rank_EC[:, stay]
        for name in (*self._inputs, self._output):
            whole = getattr(self.module, name)
            dim = 2 if name == self._output else 1
            blocks = [_take(block, channels_ES, dim) for block in whole.detach().split(self._rank_EC.shape[1], dim=dim)]
            setattr(self.module, name, nn.Parameter(torch.cat(blocks, dim=dim), whole.requires_grad))
            give_back(whole.data)
        self.module.intermediate_dim = len(stay)
        self._rank_EC = torch.arange(len(stay), device=self._rank_EC.device).expand(len(channels_ES), -1)

    def weight(self) -> Tensor:
        """The experts' output projections, root mean squares over experts, float32 [hidden, units, 1].

        Taken for a site's output projection, with `use` for its input, a unit counts as one channel.
        """
        weight = getattr(self.module, self._output).detach()
        squares = torch.zeros(weight.shape[1:], device=weight.device)
        for expert, rank in zip(weight, self._rank_EC, strict=True):
            squares += expert[:, rank].float().square()
        return (squares / len(weight)).sqrt()[..., None]

    def use(self, args: tuple[Any, ...]) -> Tensor:
        """From what the experts are called with: how much of each unit every token gets, [tokens, units].

        The norm over the experts that a token is sent to, of their channels' values times their weights.
        """
        hidden, chosen_TK, weights_TK = args
        squares = hidden.new_zeros((len(hidden), self._rank_EC.shape[1]), dtype=torch.float32)
        (into,) = self._inputs
        for number in chosen_TK.unique().tolist():
            token, place = torch.where(chosen_TK == number)
            inner = self.module._apply_gate(nn.functional.linear(hidden[token], getattr(self.module, into)[number]))
            value = inner[:, self._rank_EC[number]] * weights_TK[token, place, None]
            squares.index_add_(0, token, value.float().square())
        size: Tensor = squares.sqrt().to(hidden.dtype)
        return size

    def _strength(self) -> Tensor:
        """Of every channel of every expert, [E, C]: the product of the norms of its rows and its column."""
        output: Tensor = getattr(self.module, self._output).detach()
        strength: Tensor = output.float().norm(dim=1)
        for name in self._inputs:
            for block in getattr(self.module, name).detach().split(output.shape[-1], dim=1):
                strength *= block.float().norm(dim=2)
        return strength


def _take(block: Tensor, channels_ES: Tensor, dim: int) -> Tensor:
    """Some channels of each expert, of [experts, ...] with channels in dimension `dim`."""
    index = channels_ES.unsqueeze(3 - dim)
    shape = list(block.shape)
    shape[dim] = channels_ES.shape[1]
    return block.gather(dim, index.expand(shape))
