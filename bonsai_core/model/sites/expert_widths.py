"""Channels of a mixture's experts as units: all experts of a layer lose equally many, each its own weakest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.storage.offloaded import changed, fetched
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.channels import numbers_of
from bonsai_core.model.structure.declared import declared_count, declared_module
from bonsai_core.model.structure.layers import DecoderLayer
from bonsai_core.units import Price, Site, SiteKind
from bonsai_core.upstream import gated, is_offloaded


@final
class ExpertWidths(Mixture):
    """A unit is one channel of every expert; the experts of a layer are one parameter, so their widths are equal.

    Channels are grouped by rank: the first unit has each expert's strongest channel, as the norms of the weights
    into and out of it say; their numbers in different experts mean nothing.

    Legend for array shapes: E = experts, C = channels of one, T = tokens, K = experts that a token is sent to.
    """

    kind: ClassVar[SiteKind] = "expert_width"

    def __init__(self, site: Site, layer: DecoderLayer, family: Family, config: Any, storage: Storage) -> None:
        super().__init__(site, layer, family, config, storage)
        *self._inputs, self._output = self._parameters()
        self._rank_EC = self._strength().argsort(dim=-1, descending=True, stable=True)

    @classmethod
    def declare(cls, layer: DecoderLayer, first: int, family: Family, config: Any) -> Site:
        declared = cls.declared(family)
        width, price = declared_count(config, declared.width_field, family), 0
        for name, dim in zip(declared.weights, (1, 2), strict=True):
            weight = getattr(declared_module(layer.module, declared.module, family), name, None)
            if not isinstance(weight, nn.Parameter) or weight.ndim != 3 or weight.shape[dim] % width:
                raise BonsaiError(
                    f"{declared.module}.{name} is not a parameter of experts with {width} channels; the family "
                    f"{family.name!r} does not fit."
                )
            price += weight.numel() // width
        name = f"layers.{layer.number}.{cls.kind}"
        return Site(name, layer.number, cls.kind, first, width, price, 1, minimum=1)

    @classmethod
    def sizes(cls, family: Family, config: Any, count: int) -> dict[str, int]:
        return {cls.declared(family).width_field: count}

    def used_per_token(self) -> Price:
        """A channel of each expert that a token is sent to."""
        used, number = self._share_used()
        return Price(self.site.unit_params // number * used)

    def idle_params(self, keep: NDArray[np.bool_]) -> int:
        used, number = self._share_used()
        return int(keep.sum()) * (self.site.unit_params // number) * (number - used)

    @contextmanager
    def masked(self, keep: NDArray[np.bool_]) -> Iterator[None]:
        """What the other units put out is multiplied by zeros."""
        name, removed_EC = self._output.rpartition(".")[2], self._rank_EC[:, numbers_of(~keep)]
        if is_offloaded(self.experts):
            columns = removed_EC[:, None].expand(-1, getattr(self.experts, name).shape[1], -1)
            with changed(self.experts, name, lambda whole: whole.scatter(-1, columns.to(whole.device), 0)):
                yield
            return
        # In place, since a copy of all experts may find no room, and once an expert is used: it may arrive only then.
        before: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

        def mask(module: nn.Module, args: tuple[Any, ...]) -> None:
            for number in args[1].unique().tolist():
                if number not in before:
                    weight: Tensor = getattr(module, name).detach()[number]
                    columns = removed_EC[number].to(weight.device).expand(len(weight), -1)
                    before[number] = weight, columns, weight.gather(-1, columns)
                    weight.scatter_(-1, columns, 0)

        hook = self.experts.register_forward_pre_hook(mask)
        try:
            yield
        finally:
            hook.remove()
            for weight, columns, values in before.values():
                weight.scatter_(-1, columns, values)

    def _parameters(self) -> tuple[str, ...]:
        declared = self.declared(self.family)
        return tuple(f"{declared.module}.{name}" for name in declared.weights)

    def _without(self, path: str, whole: Tensor, kept: Tensor) -> Tensor:
        """The channels kept, in the order of their ranks."""
        channels_ES = self._rank_EC[:, kept].to(whole.device)
        dim = 2 if path == self._output else 1
        blocks = [_take(block, channels_ES, dim) for block in torch.split(whole, self._rank_EC.shape[1], dim)]
        return torch.cat(blocks, dim=dim)

    def _resize(self, count: int) -> None:
        self.experts.intermediate_dim = count
        self._rank_EC = torch.arange(count, device=self._rank_EC.device).expand(len(self._rank_EC), -1)

    def _weight(self) -> Tensor:
        """The experts' output projections, root mean squares over experts."""
        weight = self.storage.parameter(self.layer, self._output)
        squares = torch.zeros(weight.shape[1:], device=weight.device)
        for expert, rank in zip(weight, self._rank_EC, strict=True):
            squares += expert[:, rank].float().square()
        return (squares / len(weight)).sqrt()[..., None]

    def _use(self, args: tuple[Any, ...]) -> Tensor:
        """The norm over the experts that a token is sent to, of their channels' values times their weights."""
        hidden, chosen_TK, weights_TK = args
        squares = hidden.new_zeros((len(hidden), self._rank_EC.shape[1]), dtype=torch.float32)
        ranks_EC = self._rank_EC.to(hidden.device)
        (into,) = self._inputs
        weight = fetched(self.experts, into.rpartition(".")[2])
        for number in chosen_TK.unique().tolist():
            token, place = torch.where(chosen_TK == number)
            inner = gated(self.experts, nn.functional.linear(hidden[token], weight[number]))
            value = inner[:, ranks_EC[number]] * weights_TK[token, place, None]
            squares.index_add_(0, token, value.float().square())
        size: Tensor = squares.sqrt().to(hidden.dtype)
        return size

    def _strength(self) -> Tensor:
        """Of every channel of every expert, [E, C]: the product of the norms of its rows and its column."""
        output = self.storage.parameter(self.layer, self._output)
        strength = torch.stack([expert.float().norm(dim=0) for expert in output])
        num_channels = output.shape[-1]
        del output
        for path in self._inputs:
            for block in torch.split(self.storage.parameter(self.layer, path), num_channels, 1):
                strength *= torch.stack([expert.float().norm(dim=1) for expert in block])
        return strength


def _take(block: Tensor, channels_ES: Tensor, dim: int) -> Tensor:
    """Some channels of each expert, of [experts, ...] with channels in dimension `dim`."""
    index = channels_ES.unsqueeze(3 - dim)
    shape = list(block.shape)
    shape[dim] = channels_ES.shape[1]
    return block.gather(dim, index.expand(shape))
