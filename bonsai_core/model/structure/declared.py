"""Finds what a family declares: the family of a model, and its modules and counts in the model."""

from __future__ import annotations

from typing import Any

from torch import nn

from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError, UnknownNameError


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
    """The list of decoder layers.

    Raises:
        BonsaiError: the family does not fit the model; so do all functions below.
    """
    layers = declared_module(model, family.layers, family)
    if not isinstance(layers, nn.ModuleList):
        raise BonsaiError(
            f"{family.layers} of this model is no list of layers; the family {family.name!r} does not fit."
        )
    return layers


def declared_module(module: nn.Module, path: str, family: Family) -> nn.Module:
    """A submodule of a model or of a decoder layer."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise BonsaiError(
            f"This {type(module).__name__} has no {path}; the family {family.name!r} does not fit it. "
            f"Choose another with --slicer, or declare one (see docs/plugins/family.md)."
        ) from None


def declared_linear(layer: nn.Module, path: str, family: Family) -> nn.Linear:
    """A linear of a decoder layer."""
    linear = declared_module(layer, path, family)
    if not isinstance(linear, nn.Linear):
        raise BonsaiError(
            f"{path} is a {type(linear).__name__}, not a Linear; the family {family.name!r} does not fit."
        )
    return linear


def declared_count(config: Any, field: str, family: Family) -> int:
    """A number that the configuration has, such as that of heads."""
    number = getattr(config, field, None)
    if not isinstance(number, int) or number < 1:
        raise BonsaiError(f"The model's configuration has no {field}; the family {family.name!r} does not fit.")
    return number
