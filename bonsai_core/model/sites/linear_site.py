"""Sites whose units are rows and columns of linears."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.checkpoint import EmptyAttention, EmptyMLP
from bonsai_core.contracts import AttentionSite, Family, MlpSite, Repair
from bonsai_core.model.sites.model_site import ModelSite, Reader
from bonsai_core.model.sites.variant import Variant, product
from bonsai_core.model.storage.memory import release
from bonsai_core.model.storage.storage import Storage
from bonsai_core.model.structure.channels import by_unit, in_model_order, numbers_of, select_units
from bonsai_core.model.structure.declared import declared_linear, declared_module
from bonsai_core.model.structure.layers import DecoderLayer, OutputProjection
from bonsai_core.model.structure.linears import LinearLayout
from bonsai_core.model.structure.replaced import forward_replaced
from bonsai_core.units import Price, Site

StandIn = EmptyAttention | EmptyMLP


class LinearSite(ModelSite):
    """An attention or an MLP: an output projection reads the units' channels, other linears make them.

    Attributes:
        output: the output projection.
    """

    mixes_variants: ClassVar[bool] = True

    def __init__(self, site: Site, layer: DecoderLayer, family: Family, config: Any, storage: Storage) -> None:
        super().__init__(site, layer, family, config, storage)
        self._layouts = self.layouts(layer.module, family, config)
        self._stand_in: StandIn | None = None
        self.output = OutputProjection(site, layer, self._layouts[-1].path)

    @classmethod
    @abstractmethod
    def declared(cls, family: Family) -> AttentionSite | MlpSite:
        """Where a family has it."""

    @classmethod
    @abstractmethod
    def layouts(cls, layer: nn.Module, family: Family, config: Any) -> tuple[LinearLayout, ...]:
        """The linears of a dense layer that have something of the units; the output projection is the last."""

    @abstractmethod
    def _resize(self, count: int) -> None:
        """Have the module compute with this many units, once its linears have them."""

    @abstractmethod
    def _empty(self, bias: nn.Parameter | None, position: int) -> StandIn:
        """Replace the sub-layer by a stand-in that outputs the output projection's bias or zeros; return it."""

    @classmethod
    def declare(cls, layer: DecoderLayer, first: int, family: Family, config: Any) -> Site:
        layouts = cls.layouts(layer.module, family, config)
        linears = [declared_linear(layer.module, layout.path, family) for layout in layouts]
        channels = layouts[-1].lines_per_unit
        num_units = linears[-1].in_features // channels
        for layout, linear in zip(layouts, linears, strict=True):
            layout.check(linear, num_units, family)
        price = sum(layout.unit_params(linear) for layout, linear in zip(layouts, linears, strict=True))
        rest = 0
        if cls.declared(family).module:
            inside = declared_module(layer.module, cls.declared(family).module, family)
            own = sum(parameter.numel() for linear in linears for parameter in linear.parameters())
            unowned = sum(layout.unowned_params(linear) for layout, linear in zip(layouts, linears, strict=True))
            rest = sum(parameter.numel() for parameter in inside.parameters()) - own + unowned
        name = f"layers.{layer.number}.{cls.kind}"
        return Site(
            name, layer.number, cls.kind, first, num_units, price, channels, rest, stretches=layouts[-1].stretches
        )

    def used_per_token(self) -> Price:
        """All of them."""
        return Price(self.site.unit_params, self.site.rest_params)

    def variant(self, keep: NDArray[np.bool_], repair: Repair | None) -> Variant:
        standing = self.storage.standing_repair(self.output)
        of, weight, change = keep, None, None
        if standing is not None:
            of, weight, change = standing.keep, standing.weight, standing.bias
        if repair is not None and repair.weight is not None:
            of, weight = keep, repair.weight
        if repair is not None and repair.bias is not None:
            change = repair.bias if change is None else change + repair.bias.to(change)
        if weight is None:
            return Variant(keep, None if keep.all() else self._channels(keep), None, change)
        whole = weight.new_zeros(len(weight), len(keep), weight.shape[-1], device=self._device())
        whole[:, numbers_of(of).to(whole.device)] = weight.to(whole.device)
        whole[:, numbers_of(~keep).to(whole.device)] = 0
        own = self.storage.find(self.output.layer, f"{self.output.path}.bias")
        biases = [bias.to(whole.device).float() for bias in (own, change) if bias is not None]
        return Variant(keep, None, in_model_order(whole, self.site), sum(biases[1:], biases[0]) if biases else None)

    @contextmanager
    def computing(self, variants: Sequence[Variant], variant_N: NDArray[np.int64] | None = None) -> Iterator[None]:
        linear = self.output.linear
        with forward_replaced(linear, partial(product, linear.forward, variants, variant_N)):
            yield

    def slice(self, keep: NDArray[np.bool_], position: int) -> None:
        if not keep.any():
            self._stand_in = self._empty(self.output.linear.bias, position)
            return
        kept = numbers_of(keep)
        for layout in self._layouts:
            whole = declared_linear(self.layer.module, layout.path, self.family)
            self.layer.module.set_submodule(layout.path, layout.cut_linear(whole, kept, len(keep)))
            release(whole.weight.data)
        self._resize(len(kept))

    def complete_bias(self) -> None:
        """Give the output projection, or what stands in for it, a bias of zeros if it has none."""
        holder = self.output.linear if self._stand_in is None else self._stand_in
        if holder.bias is None:
            like = next(self.layer.module.parameters())
            holder.bias = nn.Parameter(like.new_zeros(self.config.hidden_size), like.requires_grad)

    def reads(self) -> Reader:
        return self.output.linear, lambda args: by_unit(args[0], self.site).flatten(-2)

    def unit_weight(self, keep: NDArray[np.bool_]) -> Tensor:
        weight, units = self.storage.unit_weight(self.output)
        return select_units(weight, keep if units is None else keep[units], dim=1)

    def moments(self, lower: Tensor) -> Tensor:
        """They are symmetric."""
        return lower.tril_() + lower.tril(-1).T

    def cuts(self, path: str, keep: NDArray[np.bool_]) -> bool:
        return path == self._bias_path(keep) or self._layout_of(path) is not None

    def cut(self, path: str, keep: NDArray[np.bool_]) -> Tensor | None:
        if path == self._bias_path(keep):
            return self._output_bias()
        layout = self._layout_of(path)
        assert layout is not None
        if layout.dim == 1:
            weight = in_model_order(self.unit_weight(keep), self.site)  # with what it was repaired to
            return weight.to(self.storage.dtype_of(self.output)).cpu()
        whole = self.storage.find(self.layer, path)
        return None if whole is None else layout.cut(whole, numbers_of(keep), len(keep), 0)

    def _device(self) -> torch.device:
        """Where the output projection computes, as far as is known: weights may be fetched for every call."""
        device = self.output.linear.weight.device
        return self.storage.home if device.type == "meta" else device

    def _channels(self, keep: NDArray[np.bool_]) -> Tensor:
        """Whether each channel that the output projection reads is of a unit kept, bool [channels]."""
        return in_model_order(torch.from_numpy(keep)[:, None].expand(-1, self.site.unit_channels), self.site)

    def _bias_path(self, keep: NDArray[np.bool_]) -> str:
        """The name of the output projection's bias; what replaces an emptied sub-layer has it itself."""
        module = self.declared(self.family).module
        return f"{module if module and not keep.any() else self.output.path}.bias"

    def _layout_of(self, path: str) -> LinearLayout | None:
        holder = path.rpartition(".")[0]
        return next((layout for layout in self._layouts if layout.path == holder), None)

    def _output_bias(self) -> Tensor:
        """With what repairs add; zeros where one was added to others only."""
        own, standing = (
            self.storage.find(self.layer, f"{self.output.path}.bias"),
            self.storage.standing_repair(self.output),
        )
        change = None if standing is None else standing.bias
        if own is None:
            own = torch.zeros(self.output.linear.out_features, dtype=self.storage.dtype_of(self.output))
        return own if change is None else (own.float() + change.cpu().float()).to(own.dtype)
