"""What an output projection computes for the sub-models of one kind, side by side with those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Variant:
    """One way in which a site has lost units.

    Attributes:
        keep: the units kept of those that the model has, bool [units].
        factor: what the channels that the projection reads are multiplied with, [channels]; None where all are kept,
            or `weight` has zeros instead.
        weight: of the projection, [out, channels]; None for its own.
        bias: with a weight, all that is added to the output, [out]; without, what is added to it besides the
            projection's own. None for nothing.
    """

    keep: NDArray[np.bool_]
    factor: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def changes(self) -> bool:
        """Whether it differs from what the site computes by itself."""
        return not (self.keep.all() and self.weight is None and self.bias is None)


def product(
    own: Callable[[Tensor], Tensor], variants: Sequence[Variant], variant_N: NDArray[np.int64] | None, inputs: Tensor
) -> Tensor:
    """An output projection's result for sequences of different variants; those of one variant share a product.

    All variants without a weight share the projection's own product, on inputs with zeros.

    Args:
        own: the projection.
        variant_N: the variant of each sequence; None for the first of all.
        inputs: [sequences, tokens, channels], or [sequences * tokens, channels].
    """
    if variant_N is None or (variant_N == variant_N[0]).all():
        variant = variants[0 if variant_N is None else variant_N[0]]
        return _masked(own, [variant], inputs) if variant.weight is None else _refitted(variant, inputs)
    inputs_NTC = inputs.reshape(len(variant_N), -1, inputs.shape[-1])
    refitted = np.array([variant.weight is not None for variant in variants])
    output: Tensor | None = None
    for number in (None, *np.flatnonzero(refitted)):
        rows = np.flatnonzero(~refitted[variant_N] if number is None else variant_N == number)
        if not len(rows):
            continue
        index = torch.from_numpy(rows).to(inputs.device)
        some = inputs_NTC[index]
        if number is None:
            result = _masked(own, [variants[v] for v in variant_N[rows]], some)
        else:
            result = _refitted(variants[number], some)
        if output is None:
            output = result.new_empty(*inputs_NTC.shape[:-1], result.shape[-1])
        output[index] = result
    assert output is not None  # there is a sequence
    return output.reshape(*inputs.shape[:-1], -1)


def _refitted(variant: Variant, inputs: Tensor) -> Tensor:
    assert variant.weight is not None
    return functional.linear(
        inputs, variant.weight.to(inputs), None if variant.bias is None else variant.bias.to(inputs)
    )


def _masked(own: Callable[[Tensor], Tensor], variants: Sequence[Variant], inputs: Tensor) -> Tensor:
    """The projection's own product; one variant for each sequence, or for all of them."""
    if any(variant.factor is not None for variant in variants):
        inputs = inputs * _rows([variant.factor for variant in variants], 1.0, inputs)
    result = own(inputs)
    if any(variant.bias is not None for variant in variants):
        result = result + _rows([variant.bias for variant in variants], 0.0, result)
    return result


def _rows(vectors: Sequence[Tensor | None], otherwise: float, like: Tensor) -> Tensor:
    """[sequences, 1, width] of one vector for each sequence, [width] of a single one; a number stands for None."""
    missing = like.new_full((like.shape[-1],), otherwise)
    rows = [missing if vector is None else vector.to(like) for vector in vectors]
    return rows[0] if len(rows) == 1 else torch.stack(rows)[:, None]
