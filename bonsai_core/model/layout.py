"""Reads a family's declaration off a model: its layers, its linears, its unit table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError, UnknownNameError
from bonsai_core.units import Site, SiteKind, UnitTable


@dataclass(frozen=True)
class Part:
    """One linear of a site, and how a unit of the site lies in it.

    Attributes:
        path: the linear's name, relative to the decoder layer.
        block: consecutive rows (``dim`` 0) or columns (``dim`` 1) that belong to one unit.
        dim: 0 for projections into the site, 1 for its output projection.
    """

    path: str
    block: int
    dim: int


def find_family(families: list[Family], slicer: str, model_type: str, architecture: str) -> Family:
    """The family for a model: by name, or from its `model_type` where `slicer` is ``auto``.

    Raises:
        BonsaiError: no declared family has this model type.
    """
    if slicer != "auto":
        for family in families:
            if family.name == slicer:
                return family
        raise UnknownNameError("slicer", slicer, ["auto", *(family.name for family in families)])
    for family in families:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted({kind for family in families for kind in family.model_types})) or "none"
    raise BonsaiError(
        f"{architecture or 'This model'} (model type {model_type!r}) is not supported. Supported model types: {known}. "
        f"To add one, declare its family in a plugin: a bonsai_slicers hook that returns "
        f"Family(name=..., model_types=({model_type!r},), attention=AttentionSite(...), mlp=MlpSite(...)); "
        f"CONTRIBUTING.md shows how."
    )


def decoder_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The list of decoder layers."""
    layers = _submodule(model, family.layers, family)
    if not isinstance(layers, nn.ModuleList):
        raise BonsaiError(
            f"{family.layers} of this model is no list of layers; the family {family.name!r} does not fit."
        )
    return layers


def site_parts(layer: nn.Module, family: Family, kind: SiteKind) -> tuple[Part, ...]:
    """The linears of a site; the last one is the output projection. Block sizes are those of the dense layer."""
    if kind == "mlp":
        mlp = family.mlp
        inputs = tuple(Part(f"{mlp.module}.{name}", 1, 0) for name in mlp.inputs)
        return (*inputs, Part(f"{mlp.module}.{mlp.output}", 1, 1))
    attention = family.attention
    head_dim = _head_dim(layer, family)
    per_group = _linear(layer, f"{attention.module}.{attention.output}", family).in_features // _groups(layer, family)
    return (
        Part(f"{attention.module}.{attention.query}", per_group, 0),
        Part(f"{attention.module}.{attention.key}", head_dim, 0),
        Part(f"{attention.module}.{attention.value}", head_dim, 0),
        Part(f"{attention.module}.{attention.output}", per_group, 1),
    )


def unit_table(model: nn.Module, family: Family) -> UnitTable:
    """Numbers a dense model's units and prices them. Works on the meta device too."""
    sites: list[Site] = []
    first = 0
    layers = decoder_layers(model, family)
    for index, layer in enumerate(layers):
        for kind in ("attention", "mlp"):
            parts = site_parts(layer, family, kind)
            output = _linear(layer, parts[-1].path, family)
            num_units = output.in_features // parts[-1].block
            for part in parts:
                _check_fit(_linear(layer, part.path, family), part, num_units, family)
            price = sum(_price(_linear(layer, part.path, family), part) for part in parts)
            sites.append(Site(f"layers.{index}.{kind}", index, kind, first, num_units, price, parts[-1].block))
            first += num_units
    decoder = sum(parameter.numel() for parameter in layers.parameters())
    return UnitTable(tuple(sites), decoder, sum(parameter.numel() for parameter in model.parameters()))


def _check_fit(linear: nn.Linear, part: Part, num_units: int, family: Family) -> None:
    size, what = (linear.out_features, "rows") if part.dim == 0 else (linear.in_features, "columns")
    if size != num_units * part.block:
        raise BonsaiError(
            f"{part.path} has {size} {what}, which are not {num_units} units of {part.block}; "
            f"the family {family.name!r} does not fit."
        )


def _price(linear: nn.Linear, part: Part) -> int:
    if part.dim == 1:
        return part.block * linear.out_features
    return part.block * (linear.in_features + (linear.bias is not None))


def _groups(layer: nn.Module, family: Family) -> int:
    key = _linear(layer, f"{family.attention.module}.{family.attention.key}", family)
    return key.out_features // _head_dim(layer, family)


def _head_dim(layer: nn.Module, family: Family) -> int:
    head_dim = getattr(_submodule(layer, family.attention.module, family), "head_dim", None)
    if not isinstance(head_dim, int):
        raise BonsaiError(f"{family.attention.module} has no head_dim; the family {family.name!r} does not fit.")
    return head_dim


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
