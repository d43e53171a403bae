"""Importances, exact costs and a budget become the next keep vector.

The lowest block leaves, again and again, until the budget is met. Most blocks leave in an order that one sort gives, so
they leave by stretches; only where a whole may come between them, or a block is too big for what is missing, is one
looked at alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.selection.blocks import Block, SiteBlock, WholeBlock
from bonsai_core.selection.chains import removal_chains
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.wholes import Remainders

FIRST_STRETCH = 64
LONGEST_STRETCH = 2**20
"""Entries of a table of blocks by wholes."""


class UnreachableError(BonsaiError):
    """The rules do not leave enough to remove.

    Attributes:
        least_U: what stays at least, bool [U].
    """

    def __init__(self, message: str, least_U: NDArray[np.bool_]) -> None:
        super().__init__(message)
        self.least_U = least_U


def select(problem: SelectionProblem) -> NDArray[np.bool_]:
    """The keep vector that reaches a sparsity at the lowest importance.

    Returns:
        bool [U]. At least `sparsity` is reached, overshooting by less than the cheapest block that was left; or, where
        that costs less importance, by less than one block that is larger than what was missing, such as an expert.
        Units that were not measured go last, so none of them leaves in place of a block that was.

    Raises:
        UnreachableError: the rules do not leave enough to remove.
    """
    return _Selection(problem).run()


def select_both_ways(problem: SelectionProblem) -> list[NDArray[np.bool_]]:
    """The keep vectors with and without wholes; the narrower one first, which removes single units alone.

    Returns:
        Two, each as by `select`; or one, if only one reaches the sparsity or both are the same.

    Raises:
        UnreachableError: as `select`.
    """
    wider_U, rules = select(problem), problem.rules.without_wholes()
    if rules is None:
        return [wider_U]
    try:
        narrower_U = select(replace(problem, rules=rules, whole_importance_W=None))
    except UnreachableError:
        return [wider_U]
    return [narrower_U] if np.array_equal(narrower_U, wider_U) else [narrower_U, wider_U]


class _Selection:
    """A selection under way."""

    def __init__(self, problem: SelectionProblem) -> None:
        self._problem = problem
        self._chains = removal_chains(problem)
        self._keep_U = problem.alive_U.copy()
        self._wholes = Remainders(problem, self._chains, self._keep_U)
        self._missing = problem.params_to_remove
        self._worth = 0.0  # of what has left
        self._open_C = np.ones(len(self._chains.first_C), dtype=bool)  # chains of which more may leave
        self._too_big: list[SiteBlock] = []
        # The lowest worth of what leaves if a block that is too big ends it, and the keep vector then.
        self._overshooting, self._overshooting_U = np.inf, self._keep_U

    def run(self) -> NDArray[np.bool_]:
        """The keep vector."""
        chains, order_B = self._chains, self._chains.leaving_order()
        longest = LONGEST_STRETCH // max(1, len(self._wholes))
        position, length = 0, FIRST_STRETCH
        while self._missing > 0:
            stretch = order_B[position : position + length]
            open_n = self._open_C[chains.chain_B[stretch]]
            blocks = stretch[open_n]
            quiet = self._num_quiet(blocks)
            self._remove_all(blocks[:quiet])
            if self._missing == 0:
                break
            if quiet < len(blocks):
                position, length = position + int(np.flatnonzero(open_n)[quiet]), FIRST_STRETCH
                block = chains.block(int(blocks[quiet]))
                whole = self._wholes.next(self._missing, before=block)
                if whole is not None:
                    self._remove(whole)
                    continue
                position += 1
                if block.cost > self._missing:
                    self._put_aside(block)
                else:
                    self._remove_all(blocks[quiet : quiet + 1])
            elif len(stretch):
                position, length = position + len(stretch), min(2 * length, longest)
            elif (whole := self._wholes.next(self._missing, before=None)) is not None:
                self._remove(whole)
            else:
                self._remove_last()
        return self._overshooting_U if self._overshooting < self._worth else self._keep_U

    def _num_quiet(self, blocks: NDArray[np.int64]) -> int:
        """How many of some blocks fit into what is missing and leave before any whole does."""
        too_big = np.cumsum(self._chains.cost_B[blocks]) > self._missing
        stops = too_big | self._wholes.may_precede(blocks, self._missing)
        return int(np.argmax(stops)) if stops.any() else len(blocks)

    def _remove_all(self, blocks: NDArray[np.int64]) -> None:
        """Blocks of single units leave, in this order."""
        chains = self._chains
        self._keep_U[chains.units(blocks)] = False
        self._missing -= int(chains.cost_B[blocks].sum())
        self._worth = float(np.add.accumulate(np.concatenate([[self._worth], chains.worth_B[blocks]]))[-1])
        self._wholes.lose(blocks)

    def _remove(self, block: Block) -> None:
        self._keep_U[block.units] = False
        self._missing -= block.cost
        self._worth += block.worth
        if isinstance(block, WholeBlock):
            self._wholes.lose_whole(block)
            self._open_C &= ~self._wholes.owned_chains(block)

    def _put_aside(self, block: SiteBlock) -> None:
        """A block is too big for what is missing, now and later, as that only shrinks; so its chain is blocked."""
        self._open_C[block.rank.number] = False
        self._too_big.append(block)
        total = self._worth + block.worth
        if total < self._overshooting:
            self._overshooting, self._overshooting_U = total, self._keep_U.copy()
            self._overshooting_U[block.units] = False

    def _remove_last(self) -> None:
        """Nothing that fits is left: remove the cheapest block that does not fit."""
        too_big = [block for block in self._too_big if self._keep_U[block.units].all()]
        left: list[Block] = [*too_big, *self._wholes.blocks()]
        if not left:
            problem = self._problem
            raise UnreachableError(
                f"A sparsity of {problem.sparsity:.4f} cannot be reached: with {problem.rules.describe()} at most "
                f"{problem.table.sparsity(self._keep_U):.4f} can be removed.",
                self._keep_U,
            )
        self._remove(min(left, key=lambda block: (block.cost, block.rank)))
