"""Selection: budgets, the rules on shapes, and what goes first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bonsai_core import BonsaiError, Site, UnitTable
from bonsai_core.selection.chains import removal_order
from bonsai_core.selection.limits import fractions, minimums, multiples
from bonsai_core.selection.problem import SelectionProblem
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import select, select_both_ways
from bonsai_core.testing.examples import CHANNEL_PARAMS, FIXED_PARAMS, GROUP_PARAMS, example_table
from bonsai_core.units import UnitKind


def choose(
    table: UnitTable,
    sparsity: float,
    *,
    importance_U: NDArray[np.float64] | None = None,
    prior_U: NDArray[np.float64] | None = None,
    alive_U: NDArray[np.bool_] | None = None,
    **rules: Any,
) -> NDArray[np.bool_]:
    rng = np.random.default_rng(1)
    importance_U = rng.normal(size=len(table)) if importance_U is None else importance_U
    prior_U = rng.random(len(table)) if prior_U is None else prior_U
    alive_U = table.keep_all() if alive_U is None else alive_U
    return select(SelectionProblem(table, alive_U, importance_U, prior_U, sparsity, Rules(**rules)))


def problem(
    table: UnitTable,
    importance_U: NDArray[np.float64],
    sparsity: float,
    rules: Rules,
    whole_W: NDArray[np.float64],
) -> SelectionProblem:
    """Of a dense model, with a prior that tells nothing apart."""
    return SelectionProblem(table, table.keep_all(), importance_U, np.zeros(len(table)), sparsity, rules, whole_W)


def widths(table: UnitTable, keep_U: NDArray[np.bool_], kind: str) -> list[int]:
    return [int(keep_U[site.units].sum()) for site in table if site.kind == kind]


def mlp_only(*layer_widths: int) -> UnitTable:
    """Sites of channels that cost one parameter each, so that sparsities are easy to count."""
    firsts = np.cumsum([0, *layer_widths])[:-1].tolist()
    sites = [
        Site(f"layers.{i}.mlp", i, "mlp", first, width, 1, 1)
        for i, (first, width) in enumerate(zip(firsts, layer_widths, strict=True))
    ]
    return UnitTable(tuple(sites), sum(layer_widths), sum(layer_widths))


def cheapest_step(table: UnitTable, keep_U: NDArray[np.bool_], rules: Rules) -> float:
    """Parameters of the cheapest block that could still leave; free shapes only."""
    costs = []
    for site in table:
        count = int(keep_U[site.units].sum())
        costs += [(count - following) * site.unit_params for following in rules.counts_below(site, count)[:1]]
    return min(costs, default=np.inf)


@pytest.mark.parametrize("seed", range(40))
def test_any_budget_is_met_and_the_rules_are_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = example_table(num_layers=3, num_groups=int(rng.integers(1, 6)), width=int(rng.integers(8, 40)))
    rules = Rules(
        rank=("importance", "density")[seed % 2],
        round_to=(multiples(1), multiples(4), multiples(7), multiples({"attention": 2, "mlp": 3}))[seed % 4],
        min_units=(minimums({"mlp": 5}), minimums(0), minimums(1), minimums(2))[seed % 4],
        max_fraction=(fractions(1.0), fractions(0.6), fractions({"attention": 0.5}))[seed // 2 % 3],
        protect=frozenset([1] if seed % 5 == 0 else []),
    )
    alive_U = rng.random(len(table)) < 0.9
    importance_U = np.where(rng.random(len(table)) < 0.3, np.nan, rng.normal(size=len(table)))
    target = float(rng.uniform(table.sparsity(alive_U), 0.7))
    try:
        keep_U = select(SelectionProblem(table, alive_U, importance_U, rng.random(len(table)), target, rules))
    except BonsaiError:
        left = [next(iter(list(rules.counts_below(s, n))[-1:]), n) for s, n in counted(table, alive_U)]
        most = sum((s.num_units - n) * s.unit_params for (s, _), n in zip(counted(table, alive_U), left, strict=True))
        assert most < target * table.decoder_params
        return
    assert not (keep_U & ~alive_U).any()
    overshoot = table.removed_params(keep_U) - target * table.decoder_params
    assert overshoot >= -1e-3
    if overshoot >= cheapest_step(table, keep_U, rules):  # only to spare units that matter more, or may
        largest = max(site.unit_params * rules.multiple(site.kind) for site in table)
        assert overshoot < largest
        assert not np.isnan(importance_U[alive_U & ~keep_U]).any()
    for site, before in counted(table, alive_U):
        after = int(keep_U[site.units].sum())
        assert after >= min(before, rules.minimum(site))
        assert after == before or after % rules.multiple(site.kind) == 0


@pytest.mark.parametrize(
    ("head", "gone"),
    [(3.0, (1, 4)), (6.25, (1, 4)), (100.0, (2, 0)), (np.nan, (2, 0))],
    ids=["cheap", "even", "dear", "unmeasured"],
)
def test_heads_make_up_for_less_than_an_expert_only_where_they_matter_less(head: float, gone: tuple[int, int]) -> None:
    experts = Site("layers.0.experts", 0, "experts", 0, 4, 10, 1, minimum=2)
    heads = Site("layers.0.attention", 0, "attention", 4, 20, 1, 1)
    importance_U = np.array([12.5, 25.0, 300.0, 300.0, *[head] * 20])
    keep_U = choose(UnitTable((experts, heads), 60, 60), 14 / 60, importance_U=importance_U, rank="density")
    assert tuple(int((~keep_U[site.units]).sum()) for site in (experts, heads)) == gone


def test_a_block_of_several_units_is_worth_all_of_them() -> None:
    experts = Site("layers.0.experts", 0, "experts", 0, 4, 10, 1)
    heads = Site("layers.0.attention", 0, "attention", 4, 20, 1, 1)
    importance_U = np.array([0.2, 0.2, 3.0, 3.0, *[0.3] * 20])
    table = UnitTable((experts, heads), 60, 60)
    keep_U = choose(table, 1 / 60, importance_U=importance_U, rank="importance", round_to=multiples({"experts": 2}))
    assert [int((~keep_U[site.units]).sum()) for site in (experts, heads)] == [0, 1]


def counted(table: UnitTable, keep_U: NDArray[np.bool_]) -> list[tuple[Site, int]]:
    return [(site, int(keep_U[site.units].sum())) for site in table]


def test_limits_are_for_all_kinds_or_for_those_named() -> None:
    attention, mlp = example_table(num_layers=2, num_groups=6, width=20).sites[:2]
    for rules, minimum in (
        (Rules(), (1, 1)),
        (Rules(min_units=minimums(3)), (3, 3)),
        (Rules(min_units=minimums({"mlp": 8})), (1, 8)),
        (Rules(max_fraction=fractions(0.5)), (3, 10)),
        (Rules(max_fraction=fractions({"attention": 0.3}), min_units=minimums(2)), (5, 2)),
        (Rules(protect=frozenset([0])), (6, 20)),
        (Rules(protect=frozenset([1])), (1, 1)),
        (Rules(min_units=minimums(99)), (6, 20)),
    ):
        assert (rules.minimum(attention), rules.minimum(mlp)) == minimum, rules
    assert list(Rules(round_to=multiples(4)).counts_below(attention, 6)) == [5, 4, 3, 2, 1]
    assert list(Rules(round_to=multiples(4)).counts_below(mlp, 20)) == [16, 12, 8, 4]
    assert list(Rules(round_to=multiples({"attention": 4})).counts_below(attention, 6)) == [4]


def test_limits_are_described_as_users_type_them() -> None:
    assert Rules().describe() == "--units attention,mlp,experts --min-units 1 --round-to 1 --shapes free"
    rules = Rules(
        units=("mlp", "layer"),
        min_units=minimums({"mlp": 200, "layer": 3}),
        round_to=multiples(64),
        max_fraction=fractions(0.5),
        protect=frozenset([3, 0]),
    )
    limits = "--min-units mlp=200,layer=3 --round-to 64 --max-fraction 0.5 --protect 0,3"
    assert rules.describe() == f"--units mlp,layer {limits} --shapes free"


@pytest.mark.parametrize("seed", range(10))
def test_equal_costs_lose_exactly_the_least_important_units(seed: int) -> None:
    table = mlp_only(7, 5, 6)
    importance_U = np.random.default_rng(seed).normal(size=len(table))
    for count in range(len(table)):
        keep_U = choose(table, count / len(table), importance_U=importance_U, min_units=minimums(0))
        assert set(np.flatnonzero(~keep_U)) == set(np.argsort(importance_U)[:count])


def test_nothing_to_remove_removes_nothing() -> None:
    table = example_table()
    alive_U = table.keep_all()
    alive_U[table.sites[1].units] = False
    np.testing.assert_array_equal(choose(table, table.sparsity(alive_U), alive_U=alive_U), alive_U)


def test_density_takes_the_costlier_of_two_equally_important_units_first() -> None:
    table = example_table()
    sparsity = 4 * GROUP_PARAMS / table.decoder_params
    keep_U = choose(table, sparsity, importance_U=np.ones(len(table)), rank="density")
    assert widths(table, keep_U, "attention") == [3] * 4
    assert widths(table, keep_U, "mlp") == [24] * 4


def test_density_compares_importance_per_parameter() -> None:
    table = example_table(num_layers=1)
    group, channel = 0, table.sites[1].first
    importance_U = np.full(len(table), 1e6)
    importance_U[group], importance_U[channel] = 2.0, 1.0  # per parameter the group is the cheaper loss
    sparsity = CHANNEL_PARAMS / table.decoder_params
    assert not choose(table, sparsity, importance_U=importance_U, rank="importance")[channel]
    sparsity = GROUP_PARAMS / table.decoder_params
    kept = choose(table, sparsity, importance_U=importance_U, rank="density")
    assert not kept[group]
    assert kept[channel]


def test_unmeasured_units_go_after_measured_ones_by_their_prior() -> None:
    table = mlp_only(6)
    importance_U = np.array([np.nan, 5.0, np.nan, 9.0, np.nan, np.nan])
    prior_U = np.array([0.3, 0.0, 0.1, 0.0, 0.2, 0.4])
    expected = [1, 3, 2, 4, 0]
    for count in range(1, 6):
        keep_U = choose(table, count / 6, importance_U=importance_U, prior_U=prior_U)
        assert set(np.flatnonzero(~keep_U)) == set(expected[:count])


def test_ties_within_a_site_are_broken_by_the_prior() -> None:
    table = mlp_only(8)
    prior_U = np.random.default_rng(0).random(8)
    keep_U = choose(table, 3 / 8, importance_U=np.zeros(8), prior_U=prior_U)
    assert set(np.flatnonzero(~keep_U)) == set(np.argsort(prior_U)[:3])


@pytest.mark.parametrize("importance", [0.0, np.nan])
def test_ties_between_sites_take_equal_shares(importance: float) -> None:
    table = mlp_only(8, 8, 16)
    keep_U = choose(table, 0.25, importance_U=np.full(32, importance))
    assert widths(table, keep_U, "mlp") == [6, 6, 12]


def test_widths_become_multiples_of_round_to() -> None:
    table = example_table(width=30)
    keep_U = choose(table, 0.3, round_to=multiples(8))
    assert set(widths(table, keep_U, "mlp")) <= {30, 24, 16, 8}
    assert keep_U.sum() < len(table)


def test_whole_sub_layers_go_only_where_min_units_is_zero() -> None:
    table = example_table()
    importance_U = np.ones(len(table))
    importance_U[table.sites[0].units] = -1.0
    sparsity = 4 * GROUP_PARAMS / table.decoder_params
    assert widths(table, choose(table, sparsity, importance_U=importance_U, min_units=minimums(0)), "attention")[0] == 0
    assert widths(table, choose(table, sparsity, importance_U=importance_U, min_units=minimums(1)), "attention")[0] == 1


@pytest.mark.parametrize("sparsity", [0.1, 0.33, 0.5])
def test_uniform_shapes_have_equal_widths_and_allowed_numbers_of_groups(sparsity: float) -> None:
    table = example_table(num_groups=6, width=40)
    keep_U = choose(table, sparsity, shapes="uniform", attention_counts=(1, 2, 3, 6), round_to=multiples(4))
    attention, mlp = set(widths(table, keep_U, "attention")), set(widths(table, keep_U, "mlp"))
    assert len(attention) == len(mlp) == 1
    assert attention < {1, 2, 3, 6}
    assert next(iter(mlp)) % 4 == 0
    assert table.sparsity(keep_U) >= sparsity


def test_uniform_shapes_refuse_ragged_beginnings() -> None:
    table = example_table()
    alive_U = table.keep_all()
    alive_U[table.sites[1].first] = False
    with pytest.raises(BonsaiError, match=r"mlp sites have \[23, 24\]"):
        choose(table, 0.5, alive_U=alive_U, shapes="uniform")


def test_an_impossible_target_names_the_largest_possible_one() -> None:
    table = example_table(num_layers=1, num_groups=2, width=4)
    largest = (GROUP_PARAMS + 3 * CHANNEL_PARAMS) / (2 * GROUP_PARAMS + 4 * CHANNEL_PARAMS + FIXED_PARAMS)
    with pytest.raises(BonsaiError, match=rf"0\.9000 cannot be reached.*--min-units 1.*at most {largest:.4f}"):
        choose(table, 0.9)
    assert table.sparsity(choose(table, largest)) == pytest.approx(largest)


def test_the_inputs_are_not_changed() -> None:
    table = example_table()
    alive_U = table.keep_all()
    choose(table, 0.4, alive_U=alive_U)
    assert alive_U.all()


def test_unmeasured_units_leave_in_equal_shares_so_the_few_large_ones_do_not_go_first() -> None:
    sites = (Site("layers.0.attention", 0, "attention", 0, 2, 10, 1), Site("layers.0.mlp", 0, "mlp", 2, 20, 1, 1))
    table = UnitTable(sites, 40, 40)
    keep_U = choose(table, 0.2, importance_U=np.full(22, np.nan))
    assert widths(table, keep_U, "attention") == [2]
    assert widths(table, keep_U, "mlp") == [12]


def test_of_unmeasured_groups_the_one_its_prior_likes_least_goes_first() -> None:
    sites = tuple(Site(f"layers.{i}.attention", i, "attention", 3 * i, 3, 1, 1) for i in range(3))
    table = UnitTable(sites, 9, 9)
    prior_U = np.array([3, 3, 3, 20, 20, 1, 5, 5, 4], float)
    keep_U = choose(table, 1 / 9, importance_U=np.full(9, np.nan), prior_U=prior_U)
    assert np.flatnonzero(~keep_U).tolist() == [5]


# Whole sub-layers and layers


def importance_of(table: UnitTable, wholes: Rules, importance_U: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([importance_U[whole.units].sum() for whole in wholes.wholes(table)])


@pytest.mark.parametrize("seed", range(40))
def test_wholes_go_whole_and_the_budget_is_met(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = (("layer",), ("attention", "mlp", "layer"), ("sublayer",), ("mlp", "sublayer", "layer"))[seed % 4]
    table = example_table(num_layers=5, layers_leave="layer" in units)
    rules = Rules(
        units=units,  # type: ignore[arg-type]
        rank=("importance", "density")[seed % 2],
        protect=frozenset([1] if seed % 3 == 0 else []),
        max_fraction=fractions({"layer": (1.0, 0.4)[seed // 4 % 2]}),
    )
    importance_U = rng.normal(size=len(table))
    whole_W = importance_of(table, rules, importance_U)
    whole_W[rng.random(len(whole_W)) < 0.2] = np.nan
    fine_U = np.where(rng.random(len(table)) < 0.5, importance_U, np.nan)
    posed = SelectionProblem(table, table.keep_all(), fine_U, rng.random(len(table)), 0.3, rules, whole_W)
    keep_U = select(posed)
    assert table.sparsity(keep_U) >= 0.3
    for site in table:
        kept = int(keep_U[site.units].sum())
        if not table.layer_stays(site.layer, keep_U):
            assert kept == 0
            continue
        assert kept in (0, site.num_units) or site.kind in units
        assert kept > 0 or "sublayer" in units
        assert kept == site.num_units or site.layer not in rules.protect
    if "layer" in units:
        assert sum(table.layer_stays(layer, keep_U) for layer in range(5)) >= (3 if seed // 4 % 2 else 1)


def test_a_layer_goes_when_its_parameters_are_worth_less_than_single_units() -> None:
    table = example_table(layers_leave=True)
    rules = Rules(units=("attention", "mlp", "layer"), rank="density")
    worth_U = table.cost_U.astype(np.float64)
    for site in table:
        if site.layer == 2:
            worth_U[site.units] *= 0.9
    # The first units of every site were measured by themselves, and are worth less than those behind them.
    fine_U = np.full(len(table), np.nan)
    for site in table:
        if site.kind != "layer":
            fine_U[site.first] = 0.8 * table.cost_U[site.first]
    whole_W = importance_of(table, rules, worth_U)
    layer = sum(s.num_units * s.unit_params for s in table if s.layer == 2)
    budget = (4 * (GROUP_PARAMS + CHANNEL_PARAMS) + layer) / table.decoder_params
    keep_U = select(problem(table, fine_U, budget * 0.95, rules, whole_W))
    assert [table.layer_stays(number, keep_U) for number in range(4)] == [True, True, False, True]
    small = select(problem(table, fine_U, 0.02, rules, whole_W))
    assert all(table.layer_stays(number, small) for number in range(4))


def test_units_that_went_with_their_layer_do_not_end_it_again() -> None:
    table = example_table(num_layers=3, layers_leave=True)
    rules = Rules(units=("attention", "mlp", "layer"), rank="density")
    importance_U = 10 * table.cost_U.astype(np.float64)
    gone = sum(site.num_units * site.unit_params for site in table if site.layer == 0)
    for site in table:
        if site.layer == 0:
            importance_U[site.units] = 0.5 * table.cost_U[site.units]
    whole_W = importance_of(table, rules, 0.8 * importance_U)
    target = (gone + CHANNEL_PARAMS) / table.decoder_params
    keep_U = select(problem(table, importance_U, target, rules, whole_W))
    assert not table.layer_stays(0, keep_U)
    assert target <= table.sparsity(keep_U) < target + CHANNEL_PARAMS / table.decoder_params


def test_what_goes_of_a_whole_is_taken_off_its_importance() -> None:
    """The unit that matters leaves with its site; what is left of the layer matters less than any other unit."""
    table = example_table(num_layers=2, layers_leave=True)
    rules = Rules(units=("attention", "layer"), rank="density")
    fine_U = np.full(len(table), np.nan)
    fine_U[table.sites[0].first] = 1.0
    fine_U[table.sites[3].first] = 2.0
    whole_W = np.array([1.001, 1e6])  # all but a thousandth of the first layer's is in its first group
    keep_U = select(problem(table, fine_U, 0.4, rules, whole_W))
    assert [table.layer_stays(number, keep_U) for number in range(2)] == [False, True]


def test_the_answer_without_wholes_is_that_of_single_units_alone() -> None:
    table, rng = example_table(num_layers=5, layers_leave=True), np.random.default_rng(0)
    importance_U, prior_U = rng.random(len(table)), rng.random(len(table))
    single, both = Rules(units=("attention", "mlp")), Rules(units=("attention", "mlp", "layer"))
    whole_W = np.full(5, 1e-3)  # layers seem to be worth next to nothing
    posed = SelectionProblem(table, table.keep_all(), importance_U, prior_U, 0.3, both, whole_W)
    narrower_U, wider_U = select_both_ways(posed)
    np.testing.assert_array_equal(wider_U, select(posed))
    assert not all(table.layer_stays(layer, wider_U) for layer in range(5))
    alone = SelectionProblem(table, table.keep_all(), importance_U, prior_U, 0.3, single)
    np.testing.assert_array_equal(narrower_U, select(alone))


def test_there_is_one_answer_where_wholes_make_no_difference_or_are_needed() -> None:
    table, ones_U = example_table(layers_leave=True), np.ones(len(example_table(layers_leave=True)))
    needed = Rules(units=("attention", "layer"), min_units=minimums({"attention": 3}))
    for rules, whole in ((Rules(), 0.0), (Rules(units=("layer",)), 0.0), (needed, 0.0)):
        whole_W = np.full(len(rules.wholes(table)), whole)
        posed = SelectionProblem(table, table.keep_all(), ones_U, ones_U, 0.3, rules, whole_W)
        assert len(select_both_ways(posed)) == 1
    costly = Rules(units=("attention", "mlp", "layer"))
    posed = SelectionProblem(table, table.keep_all(), ones_U, ones_U, 0.3, costly, np.full(4, 1e6))
    assert len(select_both_ways(posed)) == 1


def test_an_impossible_number_of_layers_says_what_is_possible() -> None:
    table = example_table(layers_leave=True)
    kinds: tuple[UnitKind, ...] = ("layer",)
    most = table.wholes(kinds)[0].units
    largest = 2 * int(table.cost_U[most].sum()) / table.decoder_params
    with pytest.raises(BonsaiError, match=rf"--units layer.*--max-fraction layer=0\.5.*at most {largest:.4f}"):
        choose(table, 0.9, units=("layer",), max_fraction=fractions({"layer": 0.5}))


@pytest.mark.parametrize("importance", [0.0, np.nan])
def test_ties_between_layers_are_broken_by_the_prior(importance: float) -> None:
    table = example_table(num_layers=5, layers_leave=True)
    prior_U = np.array([[3.0, 1.0, 5.0, 2.0, 4.0][table.sites[site].layer] for site in table.site_U])
    rules = Rules(units=("layer",))
    nothing_U, same_W = np.full(len(table), np.nan), np.full(5, importance)
    keep_U = select(SelectionProblem(table, table.keep_all(), nothing_U, prior_U, 0.4, rules, same_W))
    assert [n for n in range(5) if not table.layer_stays(n, keep_U)] == [1, 3]


def test_what_goes_with_a_sites_last_unit_counts() -> None:
    sites = tuple(Site(f"layers.{i}.query", i, "query", 4 * i, 4, 100, 1, rest_params=200) for i in range(4))
    table = UnitTable(sites, 4 * 600, 4 * 600)
    importance_U = np.repeat([1.0, 2.0, 3.0, 4.0], 4)
    keep_U = choose(table, 0.25, importance_U=importance_U, units=("query",), min_units=minimums(0), rank="density")
    assert table.removed_params(keep_U) == 600
    assert not keep_U[:4].any()
    assert keep_U[4:].all()


# The same as the plain way


@dataclass(frozen=True, order=True)
class Plain:
    """A block as the rule compares it: whole sub-layers and layers go before single units of the same rank."""

    tier: int
    value: float
    tie_break: float
    single: bool
    number: int
    cost: int = field(compare=False)
    units: NDArray[np.int64] = field(compare=False)
    worth: float = field(compare=False)


def plain_chains(posed: SelectionProblem) -> list[list[Plain]]:
    table, rules, chains = posed.table, posed.rules, []
    sites = [s for s in table if rules.divides(s) and table.layer_stays(s.layer, posed.alive_U)]
    kinds = list(dict.fromkeys(site.kind for site in sites))
    uniform = [[site for site in sites if site.kind == kind] for kind in kinds]
    for number, group in enumerate(uniform if rules.shapes == "uniform" else [[site] for site in sites]):
        orders = [removal_order(site, posed) for site in group]
        living, gone, chain = len(orders[0]), 0, []
        for remaining in rules.counts_below(group[0], living):
            leaving = living - int(remaining)
            units = np.concatenate([order[gone:leaving] for order in orders])
            cost = int(table.cost_U[units].sum()) + (0 if remaining else sum(site.rest_params for site in group))
            if np.isnan(posed.importance_U[units]).any():
                share = posed.prior_U[units].sum() / max(posed.prior_U[np.concatenate(orders)].sum(), 1e-300)
                chain.append(Plain(1, leaving / living, share, True, number, cost, units, np.inf))
            else:
                per = cost if rules.rank == "density" else len(units)
                value = posed.importance_U[units].sum() / per
                chain.append(Plain(0, value, gone / living, True, number, cost, units, value * per))
            gone = leaving
        chains.append(chain)
    return chains


def plain_wholes(posed: SelectionProblem, keep_U: NDArray[np.bool_], importance_W: NDArray[np.float64]) -> list[Plain]:
    """What is left of each whole that may leave."""
    table, rules, blocks = posed.table, posed.rules, []
    stay = sum(table.layer_stays(layer, keep_U) for layer in table.layer_sites)
    for number, whole in enumerate(rules.wholes(table)):
        units = whole.units[keep_U[whole.units]]
        if len(units) == 0 or (whole.is_layer and stay <= rules.minimum_layers(len(table.layer_sites))):
            continue
        scored = units[table.scored_U[units]]
        liking = posed.prior_U[scored].mean() if len(scored) else 0.0
        cost = table.removed_params(keep_U & ~np.isin(np.arange(len(table)), units)) - table.removed_params(keep_U)
        per = cost if rules.rank == "density" else len(units)
        value = importance_W[number] / per
        blocks.append(
            Plain(2, liking, 0.0, False, number, cost, units, np.inf)
            if np.isnan(value)
            else Plain(0, value, liking, False, number, cost, units, value * per)
        )
    return blocks


def plainly_selected(posed: SelectionProblem) -> NDArray[np.bool_] | None:
    """One block after another: always the lowest of all that could be next. None where the target is out of reach."""
    table, wholes, keep_U = posed.table, posed.rules.wholes(posed.table), posed.alive_U.copy()
    importance_W = np.full(len(wholes), np.nan) if posed.whole_importance_W is None else posed.whole_importance_W.copy()
    chains, worth = plain_chains(posed), 0.0
    too_big: list[Any] = []
    missing, ended, ended_U = posed.params_to_remove, np.inf, keep_U
    while missing > 0:
        heads = [chain[0] for chain in chains if chain and keep_U[chain[0].units].all()]
        left = plain_wholes(posed, keep_U, importance_W)
        following = [*heads, *(whole for whole in left if whole.cost <= missing)]
        last = [*(block for block in too_big if keep_U[block.units].all()), *left]
        if not following and not last:
            return None
        block = min(following) if following else min(last, key=lambda block: (block.cost, block))
        if following and block.cost > missing:
            too_big.append(block)
            chains[block.number] = []
            if worth + block.worth < ended:
                ended, ended_U = worth + block.worth, keep_U.copy()
                ended_U[block.units] = False
            continue
        gone = posed.importance_U[block.units].sum() if block.single else importance_W[block.number]
        for number, whole in enumerate(wholes):
            if np.isin(block.units, whole.units).all() and not np.isnan(gone):
                importance_W[number] -= gone
        keep_U[block.units] = False
        missing, worth = missing - block.cost, worth + block.worth
        if block.single:
            chains[block.number] = chains[block.number][1:]
    assert table.sparsity(keep_U) >= posed.sparsity - 1e-9
    return ended_U if ended < worth else keep_U


@pytest.mark.parametrize("seed", range(60))
def test_many_blocks_at_once_leave_as_they_do_one_after_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units: tuple[UnitKind, ...] = (("attention", "mlp"), ("attention", "mlp", "sublayer", "layer"))[seed % 2]
    table = example_table(int(rng.integers(1, 5)), int(rng.integers(1, 6)), 40, layers_leave="layer" in units)
    rules = Rules(
        units=units,
        rank=("importance", "density")[seed // 2 % 2],
        round_to=multiples((1, 1, 3, 8)[rng.integers(4)]),
        min_units=(minimums(1), minimums(0), minimums({"mlp": 7}))[rng.integers(3)],
        max_fraction=(fractions(1.0), fractions(0.7), fractions({"layer": 0.5}))[rng.integers(3)],
        shapes=("free", "uniform")[seed % 6 == 0],
    )
    uniform = rules.shapes == "uniform"
    normal_U, few_U = rng.standard_normal(len(table)), rng.integers(0, 3, len(table)).astype(np.float64)
    importance_U: NDArray[np.float64] = few_U if seed % 3 == 0 else normal_U
    whole_W = np.array([importance_U[whole.units].sum() for whole in rules.wholes(table)]) * rng.choice([0.0, 0.5, 1.0])
    whole_W[rng.random(len(whole_W)) < 0.3] = np.nan
    importance_U[rng.random(len(table)) < rng.choice([0.0, 0.3, 1.0])] = np.nan
    alive_U = table.keep_all() if uniform else rng.random(len(table)) < 0.9
    alive_U[[site.first for site in table.layer_sites.values()]] = True
    prior_U = (rng.random(len(table)), np.zeros(len(table)))[seed % 5 == 0]
    for sparsity in (0.1, 0.4, 0.8, 0.97):
        posed = SelectionProblem(table, alive_U, importance_U, prior_U, sparsity, rules, whole_W)
        expected_U = plainly_selected(posed)
        if expected_U is None:
            with pytest.raises(BonsaiError, match="cannot be reached"):
                select(posed)
        else:
            np.testing.assert_array_equal(select(posed), expected_U)
