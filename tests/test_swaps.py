"""Swaps of budget between sites: what `select` promises holds for them too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bonsai_core import UnitTable
from bonsai_core.selection.chains import removal_order
from bonsai_core.selection.limits import multiples
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import select
from bonsai_core.selection.swaps import Swaps
from bonsai_core.testing.examples import example_table

SPARSITY = 0.4


def swapped(table: UnitTable, seed: int, rules: Rules, num_swaps: int = 2) -> tuple[Any, Any, Any]:
    """The selection's keep vector, another some swaps away, and the importances behind both."""
    rng = np.random.default_rng(seed)
    importance_U, prior_U, alive_U = rng.normal(size=len(table)), rng.random(len(table)), table.keep_all()
    posed = SelectionProblem(table, alive_U, importance_U, prior_U, SPARSITY, rules)
    keep_U, swaps = select(posed), Swaps(posed)
    return keep_U, swaps.propose(keep_U, num_swaps, rng), importance_U


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rules", [Rules(), Rules(round_to=multiples(4)), Rules(shapes="uniform")], ids=Rules.describe)
def test_a_swap_spends_the_same_budget_under_the_same_rules(seed: int, rules: Rules) -> None:
    table = example_table(num_layers=3, num_groups=4, width=16)
    keep_U, swapped_U, _ = swapped(table, seed, rules)
    assert table.sparsity(swapped_U) >= SPARSITY
    step = int(table.cost_U.min()) * rules.multiple("mlp") * (3 if rules.shapes == "uniform" else 1)
    most = max(table.removed_params(keep_U), SPARSITY * table.decoder_params + step)
    assert table.removed_params(swapped_U) <= most
    counts = {site.name: int(swapped_U[site.units].sum()) for site in table}
    for site in table:
        allowed = [site.num_units, *rules.counts_below(site, site.num_units)]
        assert counts[site.name] in allowed
        if rules.shapes == "uniform":
            assert len({counts[other.name] for other in table if other.kind == site.kind}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_inside_a_site_the_order_of_removal_stays(seed: int) -> None:
    table = example_table(num_layers=3, num_groups=4, width=16)
    _, swapped_U, importance_U = swapped(table, seed, Rules())
    posed = SelectionProblem(table, table.keep_all(), importance_U, np.zeros(len(table)), SPARSITY, Rules())
    for site in table:
        order = removal_order(site, posed)
        kept = swapped_U[order]
        assert (np.diff(kept.astype(int)) >= 0).all(), "a unit left while a less important one of its site stayed"


def test_swaps_find_other_keep_vectors() -> None:
    table = example_table(num_layers=3, num_groups=4, width=16)
    different = 0
    for seed in range(20):
        keep_U, swapped_U, _ = swapped(table, seed, Rules())
        different += not np.array_equal(keep_U, swapped_U)
    assert different >= 15


def test_the_same_random_stream_gives_the_same_swap() -> None:
    table = example_table(num_layers=3, num_groups=4, width=16)
    first, second = (swapped(table, 3, Rules())[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_one_site_alone_has_nothing_to_swap_with() -> None:
    table = example_table(num_layers=1, num_groups=1, width=8)
    keep_U, swapped_U, _ = swapped(table, 0, Rules())
    np.testing.assert_array_equal(swapped_U, keep_U)


def test_without_single_units_there_is_nothing_to_swap() -> None:
    table = example_table(layers_leave=True)
    rules = Rules(units=("layer",))
    left_U = table.keep_all()
    left_U[rules.wholes(table)[0].units] = False
    posed = SelectionProblem(table, left_U, np.full(len(table), np.nan), np.zeros(len(table)), 0.2, rules)
    np.testing.assert_array_equal(Swaps(posed).propose(left_U, 2, np.random.default_rng(0)), left_U)
