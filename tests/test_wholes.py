"""Whole sub-layers and layers in sub-models: which are dropped, how often, and what that says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bonsai_core import SampleRequest
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.whole_drops import WholeDrops
from bonsai_core.testing.examples import example_table

LAYERS = 10


def drops_of(
    *, drop_fraction: float = 0.2, num_submodels: int = 20, tied: bool = False, **rules: Any
) -> tuple[SampleRequest, WholeDrops]:
    """Layer n is worth n by prior."""
    table = example_table(num_layers=LAYERS, layers_leave=True)
    prior_U = np.zeros(len(table))
    for site in table:
        prior_U[site.units] = 1.0 if tied else 1.0 + site.layer
    chosen = Rules(**rules)
    request = SampleRequest(
        table,
        table.keep_all(),
        prior_U,
        drop_fraction,
        num_submodels=num_submodels,
        minimum_S=np.array([chosen.minimum(site) for site in table]),
    )
    return WholeDrops.of(request, chosen, (0, 1))


def dropped(request: SampleRequest, drops: WholeDrops) -> list[set[int]]:
    """The layers that each sub-model loses."""
    keep_MU = drops.draw().keep_MU
    for keep_U in keep_MU:
        for site in request.table:
            assert keep_U[site.units].all() == request.table.layer_stays(site.layer, keep_U)
    return [{n for n in range(LAYERS) if not request.table.layer_stays(n, keep_U)} for keep_U in keep_MU]


def test_the_least_by_prior_are_dropped_equally_often_in_complements() -> None:
    request, drops = drops_of(units=("layer",))
    assert request.num_submodels == 0
    found = dropped(request, drops)
    assert len(found) == 20
    assert all(len(gone) == 2 for gone in found)  # a fifth of ten layers
    assert all(found[i] | found[i + 1] == {0, 1, 2, 3} for i in range(0, 20, 2))


def test_a_prior_that_tells_none_apart_excludes_none() -> None:
    _, drops = drops_of(units=("layer",), tied=True)
    assert len(drops.drawn) == LAYERS


def test_protected_layers_are_never_dropped() -> None:
    request, drops = drops_of(units=("layer",), protect=frozenset([0, 2]))
    assert set.union(*dropped(request, drops)) == {1, 3, 4, 5}


@pytest.mark.parametrize("num_submodels", [2, 4, 9, 20, 80])
def test_single_units_and_layers_share_the_sub_models(num_submodels: int) -> None:
    """Those for single units are as they would be without layers, and the larger part."""
    request, drops = drops_of(units=("attention", "mlp", "layer"), num_submodels=num_submodels)
    assert request.drop_fraction == 0.2
    assert request.num_submodels + drops.num_submodels == num_submodels
    assert request.num_submodels >= drops.num_submodels
    assert len(drops.draw().keep_MU) == drops.num_submodels == pytest.approx(num_submodels / 3, abs=1)


def test_without_wholes_sub_models_are_the_samplers() -> None:
    request, drops = drops_of(units=("attention", "mlp"))
    assert request.drop_fraction == 0.2
    assert len(drops.draw().keep_MU) == 0
    assert request.num_submodels == 20


def test_a_whole_is_worth_what_all_its_living_units_are() -> None:
    request, drops = drops_of(units=("layer",))
    importance_U = np.ones(len(request.table))
    importance_U[request.table.sites[3].first] = np.nan
    worth_W = drops.importance(importance_U)
    size = len(drops.wholes[0].units)
    assert worth_W[0] == size
    assert np.isnan(worth_W[1])
    assert worth_W[2:] == pytest.approx(size)


def test_what_is_left_by_a_selection_are_all_wholes_but_those_gone() -> None:
    request, drops = drops_of(units=("attention", "mlp", "layer"))
    keep_U = request.alive_U.copy()
    keep_U[drops.wholes[4].units] = False
    keep_U[request.table.sites[0].first] = False
    left_U = drops.left_by(keep_U)
    assert set(np.flatnonzero(~left_U)) == set(drops.wholes[4].units)


def test_attentions_and_mlps_are_drawn_from_windows_of_their_own() -> None:
    """However their priors compare with each other."""
    table = example_table(num_layers=LAYERS)
    prior_U = np.concatenate([np.full(s.num_units, s.layer + (1000.0 if s.kind == "mlp" else 1.0)) for s in table])
    rules = Rules(units=("sublayer",))
    minimum_S = np.array([rules.minimum(site) for site in table])
    request = SampleRequest(table, table.keep_all(), prior_U, 0.2, 10, minimum_S=minimum_S)
    _, drops = WholeDrops.of(request, rules, (0, 1))
    kinds = [whole.name.rpartition(".")[2] for whole in drops.drawn]
    assert 3 <= kinds.count("attention") <= 5
    assert 3 <= kinds.count("mlp") <= 5
    assert max(whole.layer for whole in drops.drawn) <= 4


def test_never_all_that_are_drawn_are_dropped_at_once() -> None:
    request, drops = drops_of(units=("layer",), protect=frozenset(range(8)), drop_fraction=0.5)
    assert {len(gone) for gone in dropped(request, drops)} == {1}
