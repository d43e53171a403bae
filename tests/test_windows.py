"""Windows of a round: a share of each kind of unit over the model, however few units a site has."""

from __future__ import annotations

import numpy as np
import pytest
from bonsai_plugins.samplers.windows import Windows

from bonsai_core import Registry, SampleRequest
from bonsai_core.config import PluginChoice
from bonsai_core.testing.examples import example_table

LAYERS = 30


def request_of(
    *, num_groups: int = 3, width: int = 300, drop_fraction: float = 0.1, num_submodels: int = 80, minimum: int = 1
) -> SampleRequest:
    table = example_table(LAYERS, num_groups, width)
    rng = np.random.default_rng(0)
    minimum_S = np.full(len(table.sites), minimum)
    return SampleRequest(table, table.keep_all(), rng.random(len(table)), drop_fraction, num_submodels, minimum_S)


def sizes(request: SampleRequest, kind: str, seed: int = 0) -> np.ndarray:
    """Of the windows of a kind's sites, int64 [pairs, sites]."""
    size_PS = Windows.of(request, np.random.default_rng(seed), in_turn=True).size_PS
    return size_PS[:, [site.kind == kind for site in request.table]]


@pytest.mark.parametrize("num_groups", [2, 3, 4, 8, 9])
@pytest.mark.parametrize("drop_fraction", [0.02, 0.05, 0.1, 1 / 6])
def test_every_pair_perturbs_the_share_of_each_kind(num_groups: int, drop_fraction: float) -> None:
    request = request_of(num_groups=num_groups, drop_fraction=drop_fraction)
    for kind, num_units in (("attention", num_groups), ("mlp", 300)):
        share = 2 * drop_fraction * num_units
        size_PS = sizes(request, kind)
        if share >= 1:
            assert (size_PS == np.floor(share + 1e-9)).all()
        else:
            assert set(np.unique(size_PS)) <= {0, 1}
            assert np.abs(size_PS.sum(axis=1) - share * LAYERS).max() < 1


def test_sites_with_few_units_all_take_part_equally_often() -> None:
    size_PS = sizes(request_of(num_groups=3, drop_fraction=0.05), "attention")
    assert set(size_PS.sum(axis=0)) == {12}  # 0.3 of a unit in each of 40 pairs
    assert len(np.unique(size_PS, axis=0)) > 30  # with ever other sites


def test_a_window_of_a_unit_or_more_is_the_same_in_all_pairs() -> None:
    """So that a site is one unknown to a regression over sites, and has one repair."""
    for num_groups in (9, 300):
        size_PS = sizes(request_of(num_groups=num_groups), "attention")
        assert (size_PS == size_PS[0]).all()


def test_whole_numbers_are_not_drawn() -> None:
    request = request_of(num_groups=5, width=300, drop_fraction=0.1)
    rng = np.random.default_rng(0)
    size_PS = Windows.of(request, rng, in_turn=True).size_PS
    assert (size_PS[:, ::2] == 1).all()
    assert (size_PS[:, 1::2] == 60).all()
    assert rng.random() == np.random.default_rng(0).random()


def test_a_site_at_its_minimum_has_no_window() -> None:
    assert not sizes(request_of(num_groups=3, minimum=3), "attention").any()


@pytest.mark.parametrize("name", ["antithetic", "stratified", "adaptive"])
@pytest.mark.parametrize("level", ["site", "unit"])
def test_samplers_drop_groups_of_every_layer_at_the_share_asked_for(registry: Registry, name: str, level: str) -> None:
    options = {"in_turn": True} if name == "stratified" else {"level": level, "in_turn": True}
    sampler = registry.create("sampler", PluginChoice(name=name, options=options))
    request = request_of(num_groups=3, drop_fraction=0.1)
    keep_MU = sampler.sample(request, np.random.default_rng(0)).keep_MU  # type: ignore[attr-defined]
    groups = [keep_MU[:, site.units] for site in request.table if site.kind == "attention"]
    assert all(not keep_MN.all() and (keep_MN.sum(axis=1) >= 2).all() for keep_MN in groups)
    dropped = 1 - np.mean(groups)
    assert dropped == pytest.approx(0.1, abs=0.02)
