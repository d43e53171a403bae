"""Reads a family's declaration off a model: its layers, its linears, its unit table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.contracts import AttentionSite, Family, MlpSite
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.units import Site, SiteKind, UnitKind, UnitTable


@dataclass(frozen=True)
class Part:
    """One linear of a site, and how a unit of the site lies in it.

    Attributes:
        path: the linear's name, relative to the decoder layer.
        blocks: consecutive rows (``dim`` 0) or columns (``dim`` 1) that belong to one unit. Fused projections have
            several: all units' first blocks, then all units' second blocks, ...
        dim: 0 for projections into the site, 1 for its output projection.
        runs: so many times over; a block is a unit's share of one run.
        rest: rows behind all of them that belong to no unit.
        tail: rows behind each run that belong to no unit.
    """

    path: str
    blocks: tuple[int, ...]
    dim: int
    runs: int = 1
    rest: int = 0
    tail: int = 0

    @property
    def unowned(self) -> int:
        """Rows that belong to no unit."""
        return self.rest + self.runs * self.tail


def find_family(families: list[Family], slicer: str, config: Any) -> Family | None:
    """The family for a dense or pruned model: by name, or from its configuration where `slicer` is ``auto``.

    Returns:
        None if none is declared.

    Raises:
        UnknownNameError: no family has that name.
    """
    if slicer == "auto":
        model_type = stock_class(type(config)).model_type
        return next((family for family in families if family.covers(model_type, config)), None)
    for family in families:
        if family.name == slicer:
            return family
    raise UnknownNameError("slicer", slicer, ["auto", *(family.name for family in families)])


def decoder_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The list of decoder layers."""
    layers = _submodule(model, family.layers, family)
    if not isinstance(layers, nn.ModuleList):
        raise BonsaiError(
            f"{family.layers} of this model is no list of layers; the family {family.name!r} does not fit."
        )
    return layers


def site_parts(layer: nn.Module, family: Family, config: Any, kind: SiteKind) -> tuple[Part, ...]:
    """The linears of a site; the last one is the output projection. Block sizes are those of the dense layer."""
    if kind == "mlp":
        return (*_fused([(family.mlp.path(name), 1) for name in family.mlp.inputs]), _output(family.mlp, 1))
    attention = family.attention
    assert attention is not None
    width = _linear(layer, attention.path(attention.output), family).in_features
    groups = 1 if attention.groups_field is None else _count(config, attention.groups_field, family)
    per_group = width // groups
    head_dim = width // _count(config, attention.heads_field, family)
    if kind == "query":
        if head_dim == per_group:
            raise BonsaiError("Every KV group of this model has one query head: prune attention, not query.")
        fused = attention.query in (attention.key, attention.value)
        of_group = 2 * head_dim if fused else 0  # its key and its value
        others = {"tail": of_group} if attention.interleaved else {"rest": groups * of_group}
        query = Part(attention.path(attention.query), (head_dim,), 0, groups, **others)
        return (query, Part(attention.path(attention.output), (head_dim,), 1, groups))
    if attention.interleaved:
        inputs: tuple[Part, ...] = (Part(attention.path(attention.query), (per_group + 2 * head_dim,), 0),)
    else:
        names = (attention.query, attention.key, attention.value)
        inputs = _fused(list(zip(map(attention.path, names), (per_group, head_dim, head_dim), strict=True)))
    return (*inputs, _output(attention, per_group))


def _fused(rows: list[tuple[str, int]]) -> tuple[Part, ...]:
    """One part per linear, from (path, rows of one unit) of every projection."""
    blocks: dict[str, tuple[int, ...]] = {}
    for path, block in rows:
        blocks[path] = (*blocks.get(path, ()), block)
    return tuple(Part(path, sizes, 0) for path, sizes in blocks.items())


def _output(site: AttentionSite | MlpSite, block: int) -> Part:
    return Part(site.path(site.output), (block,), 1)


def unit_table(model: Any, family: Family, units: Collection[UnitKind] = ()) -> UnitTable:
    """Numbers a dense model's units and prices them. Works on the meta device too.

    Args:
        units: what may leave. With ``query`` the units of attentions are query heads, not KV groups; with
            ``expert_width`` those of mixtures are channels, not experts; with ``layer`` every layer gets a site for
            what leaves only with all of it. All else is in the table in any case.

    Raises:
        BonsaiError: the model is not as declared, or has no query heads to spare.
    """
    sites: list[Site] = []
    first = 0
    layers = decoder_layers(model, family)
    if not len(layers):
        raise BonsaiError("The model's configuration gives it no layers, so there is nothing to prune.")
    for index, layer in enumerate(layers):
        for kind in site_kinds(layer, family, units):
            if kind in ("experts", "expert_width"):
                mixture_site = _experts_site if kind == "experts" else _expert_width_site
                sites.append(mixture_site(index, first, layer, family, model.config))
                first += sites[-1].num_units
                continue
            parts = site_parts(layer, family, model.config, kind)
            runs = parts[-1].runs
            channels = parts[-1].blocks[0] * runs
            num_units = _linear(layer, parts[-1].path, family).in_features // channels
            for part in parts:
                _check_fit(_linear(layer, part.path, family), part, num_units, family)
            price = sum(_price(_linear(layer, part.path, family), part) for part in parts)
            rest = _rest(layer, family, kind, parts)
            name = f"layers.{index}.{kind}"
            sites.append(Site(name, index, kind, first, num_units, price, channels, rest, runs=runs))
            first += num_units
        if "layer" in units:
            others = sum(s.num_units * s.unit_params + s.rest_params for s in sites if s.layer == index)
            price = sum(parameter.numel() for parameter in layer.parameters()) - others
            sites.append(Site(f"layers.{index}", index, "layer", first, 1, price, 0))
            first += 1
    decoder = sum(parameter.numel() for parameter in layers.parameters())
    return UnitTable(tuple(sites), decoder, sum(parameter.numel() for parameter in model.parameters()))


def site_kinds(layer: nn.Module, family: Family, units: Collection[UnitKind] = ()) -> tuple[SiteKind, ...]:
    """The sites of a layer, in order; `units` as for `unit_table`."""
    feed_forward: SiteKind = "mlp"
    if has_experts(layer, family):
        feed_forward = "expert_width" if "expert_width" in units else "experts"
    if family.attention is None:
        return (feed_forward,)
    return ("query" if "query" in units else "attention", feed_forward)


def has_experts(layer: nn.Module, family: Family) -> bool:
    """Whether a layer has a mixture of experts in place of the MLP."""
    return family.experts is not None and any(name == family.experts.module for name, _ in layer.named_modules())


def _expert_width_site(index: int, first: int, layer: nn.Module, family: Family, config: Any) -> Site:
    declared = family.experts
    assert declared is not None
    width, price = _count(config, declared.width_field, family), 0
    for name, dim in zip(declared.weights, (1, 2), strict=True):
        weight = getattr(_submodule(layer, declared.module, family), name, None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 3 or weight.shape[dim] % width:
            raise BonsaiError(
                f"{declared.module}.{name} is no parameter of experts with {width} channels; the family "
                f"{family.name!r} does not fit."
            )
        price += weight.numel() // width
    return Site(f"layers.{index}.expert_width", index, "expert_width", first, width, price, 1, minimum=1)


def _experts_site(index: int, first: int, layer: nn.Module, family: Family, config: Any) -> Site:
    declared = family.experts
    assert declared is not None
    count = _count(config, declared.count_field, family)
    price = 0
    for module, names in ((declared.module, declared.weights), (declared.router, declared.router_weights)):
        for name in names:
            weight = getattr(_submodule(layer, module, family), name, None)
            if not isinstance(weight, nn.Parameter) or len(weight) != count:
                raise BonsaiError(
                    f"{module}.{name} is no parameter of {count} experts; the family {family.name!r} does not fit."
                )
            price += weight.numel() // count
    minimum = _count(config, declared.per_token_field, family)
    return Site(f"layers.{index}.experts", index, "experts", first, count, price, 1, minimum=minimum)


def _check_fit(linear: nn.Linear, part: Part, num_units: int, family: Family) -> None:
    size, what = (linear.out_features, "rows") if part.dim == 0 else (linear.in_features, "columns")
    of_unit = part.runs * sum(part.blocks)
    if size != num_units * of_unit + part.unowned:
        raise BonsaiError(
            f"{part.path} has {size} {what}, which are not {num_units} units of {of_unit}; "
            f"the family {family.name!r} does not fit."
        )


def _price(linear: nn.Linear, part: Part) -> int:
    lines = part.runs * sum(part.blocks)
    return lines * (linear.out_features if part.dim == 1 else linear.in_features + (linear.bias is not None))


def _rest(layer: nn.Module, family: Family, kind: SiteKind, parts: tuple[Part, ...]) -> int:
    """Parameters of a sub-layer that belong to none of its linears."""
    site = family.mlp if kind == "mlp" else family.attention
    if site is None or not site.module:
        return 0
    all_of_it = sum(parameter.numel() for parameter in _submodule(layer, site.module, family).parameters())
    linears = [(_linear(layer, part.path, family), part) for part in parts]
    own = sum(p.numel() for linear, _ in linears for p in linear.parameters())
    shared = sum(part.unowned * (linear.in_features + (linear.bias is not None)) for linear, part in linears)
    return all_of_it - own + shared


def _count(config: Any, field: str, family: Family) -> int:
    number = getattr(config, field, None)
    if not isinstance(number, int) or number < 1:
        raise BonsaiError(f"The model's configuration has no {field}; the family {family.name!r} does not fit.")
    return number


def _linear(layer: nn.Module, path: str, family: Family) -> nn.Linear:
    linear = _submodule(layer, path, family)
    if not isinstance(linear, nn.Linear):
        raise BonsaiError(
            f"{path} is a {type(linear).__name__}, not a Linear; the family {family.name!r} does not fit."
        )
    return linear


def _submodule(module: nn.Module, path: str, family: Family) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise BonsaiError(
            f"This {type(module).__name__} has no {path}; the family {family.name!r} does not fit it. "
            f"Choose another with --slicer, or declare one (see CONTRIBUTING.md)."
        ) from None
