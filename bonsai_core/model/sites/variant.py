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
    own: Callable[[Tensor], Tensor], variants: Sequence[Variant], variant_N: NDArray[np.int64], inputs: Tensor
) -> Tensor:
    """An output projection's result for sequences of different variants; those of one variant share a product.

    All variants without a weight share the projection's own product, on inputs with zeros.

    Args:
        own: the projection.
        variant_N: the variant of each sequence.
        inputs: [sequences, tokens, channels], or [sequences * tokens, channels].
    """
    inputs_NTC = inputs.reshape(len(variant_N), -1, inputs.shape[-1])
    with_weight = np.array([variant.weight is not None for variant in variants])
    output: Tensor | None = None
    masked_N = np.flatnonzero(~with_weight[variant_N])
    groups = [np.flatnonzero(variant_N == v) for v in np.flatnonzero(with_weight)]
    for rows in (masked_N, *groups):
        if not len(rows):
            continue
        some = inputs_NTC if len(rows) == len(inputs_NTC) else inputs_NTC[torch.from_numpy(rows).to(inputs.device)]
        if rows is masked_N:
            result = _masked(own, variants, variant_N[rows], some)
        else:
            variant = variants[variant_N[rows[0]]]
            assert variant.weight is not None
            bias = None if variant.bias is None else variant.bias.to(some)
            result = functional.linear(some, variant.weight.to(some), bias)
        if len(rows) == len(inputs_NTC):
            return result.reshape(*inputs.shape[:-1], -1)
        if output is None:
            output = result.new_empty(*inputs_NTC.shape[:-1], result.shape[-1])
        output[torch.from_numpy(rows).to(output.device)] = result
    assert output is not None  # there is a sequence
    return output.reshape(*inputs.shape[:-1], -1)


def _masked(
    own: Callable[[Tensor], Tensor], variants: Sequence[Variant], variant_N: NDArray[np.int64], inputs_NTC: Tensor
) -> Tensor:
    used = [variants[v] for v in variant_N]
    if any(variant.factor is not None for variant in used):
        inputs_NTC = inputs_NTC * _rows([variant.factor for variant in used], 1.0, inputs_NTC)
    result = own(inputs_NTC)
    if any(variant.bias is not None for variant in used):
        result = result + _rows([variant.bias for variant in used], 0.0, result)
    return result


def _rows(vectors: Sequence[Tensor | None], otherwise: float, like: Tensor) -> Tensor:
    """[sequences, 1, width] of one vector per sequence, or of one number where there is none."""
    missing = like.new_full((like.shape[-1],), otherwise)
    return torch.stack([missing if vector is None else vector.to(like) for vector in vectors])[:, None]
