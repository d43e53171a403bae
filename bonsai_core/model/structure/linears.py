"""How the units of a site are stored in a linear, and what is left of it when some of them go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bonsai_core.contracts import Family
from bonsai_core.errors import BonsaiError


@dataclass(frozen=True)
class LinearLayout:
    """One linear of a site, and how its rows or columns belong to the site's units.

    Attributes:
        path: the linear's name, relative to the decoder layer.
        blocks: consecutive rows (``dim`` 0) or columns (``dim`` 1) that belong to one unit. Fused projections have
            several: all units' first blocks, then all units' second blocks, ...
        dim: 0 for projections into the site, 1 for its output projection.
        stretches: all this is repeated this many times; a block is a unit's share of one stretch.
        rest: rows after all of them that belong to no unit.
        tail: rows after each stretch that belong to no unit.
    """

    path: str
    blocks: tuple[int, ...]
    dim: int
    stretches: int = 1
    rest: int = 0
    tail: int = 0

    @property
    def lines_per_unit(self) -> int:
        """Rows or columns that belong to one unit."""
        return self.stretches * sum(self.blocks)

    @property
    def unowned(self) -> int:
        """Rows that belong to no unit."""
        return self.rest + self.stretches * self.tail

    def check(self, linear: nn.Linear, num_units: int, family: Family) -> None:
        """Check that a linear has the rows or columns of this many units.

        Raises:
            BonsaiError: it has others.
        """
        size, what = (linear.out_features, "rows") if self.dim == 0 else (linear.in_features, "columns")
        if size != num_units * self.lines_per_unit + self.unowned:
            raise BonsaiError(
                f"{self.path} has {size} {what}, which are not {num_units} units of {self.lines_per_unit}; "
                f"the family {family.name!r} does not fit."
            )

    def unit_params(self, linear: nn.Linear) -> int:
        """Parameters of the linear that belong to one unit."""
        across = linear.out_features if self.dim == 1 else _params_per_row(linear)
        return self.lines_per_unit * across

    def unowned_params(self, linear: nn.Linear) -> int:
        """Parameters of the linear that belong to no unit, but for an output projection's bias."""
        return self.unowned * _params_per_row(linear)

    def cut(self, tensor: Tensor, kept: Tensor, num_units: int, dim: int) -> Tensor:
        """The rows or columns of the units kept, of the linear's weight or bias, projection by projection.

        Args:
            kept: numbers of the units kept, int64.
            num_units: units that the tensor has.
            dim: the tensor's dimension that is divided into units.
        """
        kept, before, after = kept.to(tensor.device), tensor.shape[:dim], tensor.shape[dim + 1 :]
        lines = [self.stretches * (num_units * block + self.tail) for block in self.blocks]
        *owned, rest = torch.split(tensor, [*lines, self.rest], dim)
        pieces = []
        for piece, block in zip(owned, self.blocks, strict=True):
            parts = piece.reshape(*before, self.stretches, -1, *after)
            units, tail = torch.split(parts, [num_units * block, self.tail], dim + 1)
            units = units.reshape(*before, self.stretches, num_units, block, *after)
            left = units.index_select(dim + 1, kept).flatten(dim + 1, dim + 2)
            pieces.append((torch.cat([left, tail], dim + 1) if self.tail else left).flatten(dim, dim + 1))
        pieces += [rest] if self.rest else []
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)

    def cut_linear(self, linear: nn.Linear, kept: Tensor, num_units: int) -> nn.Linear:
        """A linear with the units kept only, of the `num_units` that it has."""
        weight, bias = self.cut(linear.weight.data, kept, num_units, self.dim), linear.bias
        if bias is not None and self.dim == 0:
            bias = nn.Parameter(self.cut(bias.data, kept, num_units, 0), bias.requires_grad)
        small = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        small.weight = nn.Parameter(weight, linear.weight.requires_grad)
        small.bias = bias
        return small


def fused(rows: list[tuple[str, int]]) -> tuple[LinearLayout, ...]:
    """One layout per linear, from (path, rows of one unit) of every input projection."""
    blocks: dict[str, tuple[int, ...]] = {}
    for path, block in rows:
        blocks[path] = (*blocks.get(path, ()), block)
    return tuple(LinearLayout(path, sizes, 0) for path, sizes in blocks.items())


def _params_per_row(linear: nn.Linear) -> int:
    return linear.in_features + (linear.bias is not None)
