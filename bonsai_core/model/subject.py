"""The model under pruning: keep vectors laid over it by hooks, and units removed from it for good."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bonsai_core.checkpoint import EmptyAttention, EmptyMLP
from bonsai_core.contracts import Family, Repair
from bonsai_core.model.sites.expert_widths import ExpertWidths
from bonsai_core.model.sites.experts import Experts
from bonsai_core.model.sites.mixture import Mixture
from bonsai_core.model.storage.devices import input_device
from bonsai_core.model.storage.memory import release
from bonsai_core.model.structure.channels import by_unit, in_model_order
from bonsai_core.model.structure.layer_count import set_layers
from bonsai_core.model.structure.unit_table import Part, decoder_layers, site_parts, unit_table
from bonsai_core.units import Site, UnitKind, UnitTable

PER_GROUP = "num_key_value_groups"
"""Where attentions in transformers keep the number of query heads per KV group."""


class Subject:
    """A causal LM, its unit table, and which units are still physically there.

    Args:
        model: a dense transformers model; it is sliced in place.
        family: how it is built.
        units: what may leave, as for `unit_table`.
        table: its unit table, where that cannot be read off it.

    Attributes:
        in_place: whether its weights can be sliced and repaired where they are.
        mixtures: experts, by the names of sites that have such units.
    """

    in_place: ClassVar[bool] = True

    def __init__(
        self, model: Any, family: Family, *, units: Collection[UnitKind] = (), table: UnitTable | None = None
    ) -> None:
        self.model = model.eval()
        self.family = family = family.of(model.config)
        self.table = table or unit_table(model, family, units)
        self.present_U = self.table.keep_all()
        self._dense_layers = list(decoder_layers(model, family))
        self._parts = {
            site.name: site_parts(self._layer(site), family, model.config, site.kind)
            for site in self.table
            if site.has_output
        }
        self.mixtures = {site.name: self._mixture(site) for site in self.table if site.in_mixture}

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)

    @property
    def home(self) -> torch.device:
        """Where new weights lie."""
        return self.device

    def dtype_of(self, site: Site) -> torch.dtype:
        """The type of new weights."""
        return self.output(site).weight.dtype

    def output_path(self, site: Site) -> str:
        """The output projection's name, relative to the decoder layer."""
        return self._parts[site.name][-1].path

    def parts(self, site: Site) -> tuple[Part, ...]:
        """The site's linears, the output projection last."""
        return self._parts[site.name]

    def output(self, site: Site) -> nn.Linear:
        """The site's output projection; its input channels are the units'."""
        return self._linear(site, self._parts[site.name][-1])

    def reads(self, site: Site) -> tuple[nn.Module, Callable[[tuple[Any, ...]], Tensor]]:
        """The module that reads what the units give, and what it reads of the arguments of a call: [..., channels]."""
        if site.in_mixture:
            mixture = self.mixtures[site.name]
            return mixture.module, mixture.use
        return self.output(site), lambda args: by_unit(args[0], site).flatten(-2)

    def unit_weight(self, site: Site, alive_U: NDArray[np.bool_]) -> Tensor:
        """The output projection's weight by the units alive, float32 [out, units, channels].

        Units of a mixture count as one channel each, see `Mixture.weight`.
        """
        if site.in_mixture:
            return self.select_alive(site, alive_U, self.mixtures[site.name].weight(), dim=1)
        weight = by_unit(self.output(site).weight.detach(), site)
        return self.select_alive(site, alive_U, weight, dim=1).float()

    def select_alive(self, site: Site, alive_U: NDArray[np.bool_], present: Tensor, dim: int) -> Tensor:
        """Of a tensor over the units that are still there, those alive: where slicing waits, others are there too."""
        alive = alive_U[site.units][self.present_U[site.units]]
        if alive.all():
            return present
        return present.index_select(dim, torch.from_numpy(np.flatnonzero(alive)).to(present.device))

    def sites_present(self) -> list[Site]:
        """Attentions, MLPs and mixtures of experts that have at least one unit left."""
        return [site for site in self.table if site.kind != "layer" and self.present_U[site.units].any()]

    def layers_present(self) -> dict[int, nn.Module]:
        """The decoder layers that are still there, by their numbers in the dense model."""
        layers = enumerate(self._dense_layers)
        return {index: layer for index, layer in layers if self.table.layer_stays(index, self.present_U)}

    @contextmanager
    def masked(self, keep_U: NDArray[np.bool_]) -> Iterator[None]:
        """The sub-model under a keep vector: dropped units' channels are zeroed before the output projection.

        Of experts, tokens are sent to those that are kept. Layers that are dropped whole hand on what they are given.
        Sites that lose nothing get no hook; on leaving, no trace stays.
        """
        with ExitStack() as stack:
            for index, layer in self.layers_present().items():
                if not self.table.layer_stays(index, keep_U):
                    stack.callback(layer.register_forward_hook(_pass_through, with_kwargs=True).remove)
            for site in self.sites_present():
                keep = keep_U[site.units][self.present_U[site.units]]
                if keep.all() or not self.table.layer_stays(site.layer, keep_U):
                    continue
                if site.in_mixture:
                    stack.enter_context(self.mixtures[site.name].without(torch.from_numpy(np.flatnonzero(keep))))
                    continue
                channels = torch.from_numpy(keep)[:, None].expand(-1, site.unit_channels)
                channels = in_model_order(channels, site)
                stack.callback(self.output(site).register_forward_pre_hook(_multiply_by(channels)).remove)
            yield

    def slice(self, keep_U: NDArray[np.bool_]) -> None:
        """Remove every unit that is not kept, in place, one linear at a time.

        Units keep their numbers; slicing twice equals slicing once by the second keep vector.
        """
        self._remove_layers([n for n in self.layers_present() if not self.table.layer_stays(n, keep_U)])
        for site in self.sites_present():
            present = self.present_U[site.units]
            keep = keep_U[site.units][present]
            if keep.all():
                continue
            if not keep.any():
                self._empty(site)
                continue
            index = torch.from_numpy(np.flatnonzero(keep))
            if site.in_mixture:
                self.mixtures[site.name].slice(index)
                continue
            for part in self._parts[site.name]:
                whole = self._linear(site, part)
                self._layer(site).set_submodule(part.path, _slice(whole, part, index, len(keep)))
                release(whole.weight.data)
            if site.kind in ("attention", "query"):
                self._set_head_counts(site, len(index))
        self.present_U = self.present_U & keep_U

    def repair(self, site: Site, keep_U: NDArray[np.bool_], repair: Repair) -> None:
        """Put a repair into the weights, in place; units that are not kept stay as they are."""
        output = self.output(site)
        if repair.weight is not None:
            keep = torch.from_numpy(keep_U[site.units][self.present_U[site.units]]).to(output.weight.device)
            runs = output.weight.data.view(len(output.weight), site.runs, len(keep), -1)
            new = in_model_order(repair.weight, site).view(len(runs), site.runs, int(keep.sum()), -1)
            runs[:, :, keep] = new.to(runs.device, runs.dtype)
        if repair.bias is not None:
            change = repair.bias.to(output.weight.device).float()
            before = output.bias.detach().float() if output.bias is not None else 0
            output.bias = nn.Parameter((change + before).to(output.weight.dtype), output.weight.requires_grad)

    @contextmanager
    def repaired(self, keep_U: NDArray[np.bool_], repairs: Iterable[tuple[Site, Repair]]) -> Iterator[None]:
        """The sub-model under a keep vector, with repairs, which are taken one at a time; no trace stays."""
        before: list[tuple[nn.Linear, Any, Any]] = []
        try:
            for site, repair in repairs:
                output = self.output(site)
                before.append((output, output.weight, output.bias))
                if repair.weight is not None:
                    output.weight = nn.Parameter(output.weight.detach().clone(), output.weight.requires_grad)
                self.repair(site, keep_U, repair)
            with self.masked(keep_U):
                yield
        finally:
            for output, weight, bias in before:
                output.weight, output.bias = weight, bias

    def complete_biases(self) -> None:
        """Give every output projection that has no bias one of zeros: checkpoints have all of them or none."""
        for site in self.table:
            if not site.has_output or not self.table.layer_stays(site.layer, self.present_U):
                continue
            holder = self.output(site) if self.present_U[site.units].any() else self._stand_in(site)
            if holder.bias is None:
                like = next(self._layer(site).parameters())
                holder.bias = nn.Parameter(like.new_zeros(self.model.config.hidden_size), like.requires_grad)

    def output_paths(self) -> tuple[str, ...]:
        """Names of the output projections, relative to a decoder layer."""
        return tuple(dict.fromkeys(parts[-1].path for parts in self._parts.values()))

    def layer_sizes(self, keep_U: NDArray[np.bool_] | None = None) -> list[dict[str, int]]:
        """The true sizes of each layer that is left, under the names its configuration class uses.

        Args:
            keep_U: of the model sliced by it; None as it is.
        """
        left_U = self.present_U if keep_U is None else keep_U
        sizes: dict[int, dict[str, int]] = {n: {} for n in self.layers_present() if self.table.layer_stays(n, left_U)}
        for site in self.table:
            count = int(left_U[site.units].sum())
            if site.kind == "layer" or site.layer not in sizes:
                continue
            if site.kind == "mlp":
                sizes[site.layer][self.family.mlp.width_field] = count
            elif site.in_mixture:
                declared = self.family.experts
                assert declared is not None
                field = declared.count_field if site.kind == "experts" else declared.width_field
                sizes[site.layer][field] = count
            else:
                sizes[site.layer].update(self._heads(site, count))
        return list(sizes.values())

    def _mixture(self, site: Site) -> Mixture:
        """The experts of a site that has such units."""
        assert self.family.experts is not None
        kind = Experts if site.kind == "experts" else ExpertWidths
        return kind(self._layer(site), self.family.experts, self._parameters_of(site))

    def _parameters_of(self, site: Site) -> Callable[[str], Tensor]:
        """Gives parameters of a site's layer, by their names in it."""
        return self._layer(site).get_parameter

    def _remove_layers(self, gone: Collection[int]) -> None:
        """Remove whole layers; those behind them move up, in the key-value cache and in the configuration too."""
        if not gone:
            return
        present, layers = self.layers_present(), decoder_layers(self.model, self.family)
        stay = [position for position, index in enumerate(present) if index not in gone]
        set_layers(self.model.config, stay)
        for index in gone:
            for parameter in present[index].parameters():
                release(parameter.data)
            self._dense_layers[index] = nn.Identity()
        for site in self.table:
            if site.layer in gone:
                self.present_U[site.units] = False
                self.mixtures.pop(site.name, None)
        for position in sorted(set(range(len(layers))) - set(stay), reverse=True):
            del layers[position]
        for position, layer in enumerate(layers):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    setattr(module, "layer_idx", position)  # noqa: B010  (nn.Module types it otherwise)

    def _heads(self, site: Site, count: int) -> dict[str, int]:
        """The configuration's numbers of heads and groups where so many units of an attention are left."""
        attention = self.family.attention
        assert attention is not None
        sizes = attention.query_sizes if site.kind == "query" else attention.sizes
        return sizes(self.model.config, count)

    def _set_head_counts(self, site: Site, count: int) -> None:
        """Put the number of heads where the attention's forward pass reads it."""
        attention = self.family.attention
        assert attention is not None
        module = self._layer(site).get_submodule(attention.module)
        heads = self._heads(site, count)
        told: dict[str, Any] = {name: heads[attention.heads_field] for name in attention.heads_attributes}
        if attention.groups_field is not None:
            told |= {name: heads[attention.groups_field] for name in attention.groups_attributes}
        if site.kind == "query" and hasattr(module, PER_GROUP):
            told[PER_GROUP] = count
        if attention.reads_config:
            told["config"] = copy.copy(module.config)
            for field, number in heads.items():
                setattr(told["config"], field, number)
        for name, value in told.items():
            setattr(module, name, value)

    def _empty(self, site: Site) -> None:
        """Take a whole sub-layer away; the bias of its output projection, if any, stays."""
        layer, bias = self._layer(site), self.output(site).bias
        family = self.family
        if site.kind != "mlp":
            assert family.attention is not None
            slot = list(self.layers_present()).index(site.layer)
            layer.set_submodule(family.attention.module, EmptyAttention(slot, bias))
        elif family.mlp.module:
            layer.set_submodule(family.mlp.module, EmptyMLP(bias))
        else:
            for name in family.mlp.inputs:
                layer.set_submodule(name, nn.Identity())
            layer.set_submodule(family.mlp.output, EmptyMLP(bias))

    def _stand_in(self, site: Site) -> EmptyAttention | EmptyMLP:
        """What stands where an emptied site was."""
        where = self.family.mlp if site.kind == "mlp" else self.family.attention
        assert where is not None
        stand_in = self._layer(site).get_submodule(where.module or where.output)
        assert isinstance(stand_in, EmptyAttention | EmptyMLP)
        return stand_in

    def _layer(self, site: Site) -> nn.Module:
        return self._dense_layers[site.layer]

    def _linear(self, site: Site, part: Part) -> nn.Linear:
        linear = self._layer(site).get_submodule(part.path)
        assert isinstance(linear, nn.Linear)
        return linear


def _pass_through(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """A layer's input in place of its output."""
    hidden = args[0] if args else kwargs["hidden_states"]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _multiply_by(factor: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal factor
        factor = factor.to(args[0])  # moved once, to where the layer is
        return (args[0] * factor, *args[1:])

    return hook


def _slice(linear: nn.Linear, part: Part, index: Tensor, num_units: int) -> nn.Linear:
    """The linear with the units of `index` only, of the `num_units` it holds."""
    kept = sliced(linear.weight.data, part, index, num_units, part.dim)
    bias = linear.bias
    if bias is not None and part.dim == 0:
        bias = nn.Parameter(sliced(bias.data, part, index, num_units, 0), bias.requires_grad)
    small = nn.Linear(kept.shape[1], kept.shape[0], bias=bias is not None, device="meta")
    small.weight = nn.Parameter(kept, linear.weight.requires_grad)
    small.bias = bias
    return small


def sliced(tensor: Tensor, part: Part, index: Tensor, num_units: int, dim: int) -> Tensor:
    """The rows or columns of the units of `index`, of a linear's weight or bias, projection by projection."""
    index, before, after = index.to(tensor.device), tensor.shape[:dim], tensor.shape[dim + 1 :]
    lines = [part.runs * (num_units * block + part.tail) for block in part.blocks]
    *owned, rest = torch.split(tensor, [*lines, part.rest], dim)
    pieces = []
    for piece, block in zip(owned, part.blocks, strict=True):
        runs = piece.reshape(*before, part.runs, -1, *after)
        units, tail = torch.split(runs, [num_units * block, part.tail], dim + 1)
        units = units.reshape(*before, part.runs, num_units, block, *after)
        kept = units.index_select(dim + 1, index).flatten(dim + 1, dim + 2)
        pieces.append((torch.cat([kept, tail], dim + 1) if part.tail else kept).flatten(dim, dim + 1))
    pieces += [rest] if part.rest else []
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
