"""What the estimators promise beyond the laws that they share."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from bonsai_plugins.estimators.patterns import Patterns
from bonsai_plugins.estimators.screened import lasso_paths
from numpy.typing import NDArray

from bonsai_core import Estimator, Measurements, Registry
from bonsai_core.config import PluginChoice

NUM_SITES, PER_SITE = 10, 12
NUM_UNITS = NUM_SITES * PER_SITE
SITE_U = np.repeat(np.arange(NUM_SITES), PER_SITE)
SEEDS = range(6)


def make(registry: Registry, name: str) -> Estimator:
    estimator: Any = registry.create("estimator", PluginChoice(name=name))
    return estimator  # type: ignore[no-any-return]


def tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


def experiment(
    keep_MU: NDArray[np.bool_],
    truth_U: NDArray[np.float64],
    prior_U: NDArray[np.float64],
    rng: np.random.Generator,
    noise: float = 0.1,
) -> Measurements:
    """Sub-models in pairs of complements; noise is relative to the spread of the true utilities."""
    keep_MU = np.stack([keep_MU, ~keep_MU], axis=1).reshape(-1, keep_MU.shape[1])
    exact_M = keep_MU @ truth_U
    utility_M = exact_M + noise * exact_M.std() * rng.standard_normal(len(exact_M))
    site_U = SITE_U[: keep_MU.shape[1]]
    return Measurements(
        keep_MU, utility_M, np.arange(len(keep_MU)) // 2, prior_U, site_U, np.full(len(site_U), 64, dtype=np.int64)
    )


def site_shares(num_pairs: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Keep vectors in which every site loses a share of its own, of any of its units."""
    share_PU = rng.random((num_pairs, NUM_SITES))[:, SITE_U]
    return np.asarray(rng.random((num_pairs, NUM_UNITS)) < share_PU)


@pytest.mark.parametrize(("num_pairs", "num_units", "together"), [(20, 8, 1), (6, 40, 1), (6, 40, 4), (4, 12, 12)])
def test_bayes_is_the_dense_computation(registry: Registry, num_pairs: int, num_units: int, together: int) -> None:
    from sklearn.linear_model import BayesianRidge

    rng = np.random.default_rng(num_pairs + together)
    pattern_MP = rng.random((num_pairs, num_units // together)) < 0.5
    keep_MU = np.repeat(pattern_MP, together, axis=1)
    measurements = experiment(keep_MU, 1e-4 * rng.normal(size=num_units), rng.lognormal(size=num_units), rng)
    pattern_MP, which_U = np.unique(measurements.keep_MU, axis=1, return_inverse=True)
    fit = make(registry, "bayes").fit(measurements)

    feature_MP = pattern_MP - pattern_MP.mean(axis=0)
    feature_size, utility_size = np.sqrt(np.square(feature_MP).sum(axis=1).mean()), measurements.utility_M.std()
    dense = BayesianRidge(max_iter=1000, tol=1e-6)
    dense.fit(feature_MP / feature_size, (measurements.utility_M - measurements.utility_M.mean()) / utility_size)
    share_U = (1 / np.bincount(which_U.ravel()))[which_U.ravel()] * utility_size / feature_size
    atol = 1e-4 * np.abs(dense.coef_).max() * utility_size / feature_size
    np.testing.assert_allclose(fit.importance_U, dense.coef_[which_U.ravel()] * share_U, rtol=0, atol=atol)
    assert fit.spread is not None
    spread_U = fit.spread()
    np.testing.assert_allclose(spread_U, np.sqrt(np.diag(dense.sigma_))[which_U.ravel()] * share_U, rtol=1e-4)
    # And the posterior by its textbook formula, at the sizes that the fit reports.
    precision, prior_precision = fit.details["noise"] ** -2, fit.details["prior_spread"] ** -2
    covariance_PP = np.linalg.inv(precision * feature_MP.T @ feature_MP + prior_precision * np.eye(len(feature_MP.T)))
    share_U = (1 / np.bincount(which_U.ravel()))[which_U.ravel()]
    mean_U = (precision * covariance_PP @ feature_MP.T @ measurements.utility_M)[which_U.ravel()] * share_U
    np.testing.assert_allclose(fit.importance_U, mean_U, rtol=0, atol=1e-6 * np.abs(mean_U).max())
    np.testing.assert_allclose(spread_U, np.sqrt(np.diag(covariance_PP))[which_U.ravel()] * share_U, rtol=1e-6)


@pytest.mark.parametrize("name", ["ridge", "bayes", "lasso", "elastic", "shrunk", "hierarchical"])
def test_a_narrow_window_is_judged_as_fairly_as_a_wide_one(registry: Registry, name: str) -> None:
    """Sites of 1 costly and of 40 cheap units, switched whole: what they are worth decides, not how many they are."""
    sizes, found = [1, 40] * 10, []
    site_U = np.repeat(np.arange(20), sizes)
    cost_U = np.where(np.repeat(sizes, sizes) == 1, 4000, 200)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        effect_S = rng.lognormal(size=20)
        drawn_PS = rng.random((12, 20)) < 0.5
        keep_MS = np.stack([drawn_PS, ~drawn_PS], axis=1).reshape(-1, 20)
        utility_M = keep_MS @ effect_S + 0.05 * rng.standard_normal(24)
        prior_U = rng.lognormal(size=len(site_U))
        measurements = Measurements(
            keep_MS[:, site_U], utility_M, np.arange(24) // 2, prior_U, site_U, cost_U.astype(np.int64)
        )
        effect = np.bincount(site_U, make(registry, name).fit(measurements).importance_U)
        found.append(tau(effect.astype(np.float64), effect_S))
    assert np.mean(found) > 0.35, found


@pytest.mark.parametrize("name", ["ridge", "shrunk", "bayes"])
def test_what_is_measured_less_often_does_not_look_cheaper(registry: Registry, name: str) -> None:
    """Half of the sites are in every pair, the others in every fourth: noise draws both towards zero alike."""
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drop_PU = rng.random((60, 40)) < 0.5
        in_window_PU = (np.arange(40) < 20) | (rng.random((60, 40)) < 0.25)
        keep_MU = np.stack([~(drop_PU & in_window_PU), drop_PU | ~in_window_PU], axis=1).reshape(120, 40)
        importance_U = rng.lognormal(sigma=0.5, size=40)
        utility_M = keep_MU @ importance_U + 2 * rng.standard_normal(120)
        ones_U, site_U = np.ones(40), np.arange(40)
        measurements = Measurements(keep_MU, utility_M, np.arange(120) // 2, ones_U, site_U, ones_U.astype(np.int64))
        found_U = make(registry, name).fit(measurements).importance_U
        shares.append([found_U[part].sum() / importance_U[part].sum() for part in (slice(20), slice(20, 40))])
    often, seldom = np.mean(shares, axis=0)
    assert seldom == pytest.approx(often, abs=0.12)


def test_shrunk_uses_a_prior_that_knows_something(registry: Registry) -> None:
    gain = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth_U = rng.lognormal(size=NUM_UNITS)
        prior_U = truth_U * rng.lognormal(sigma=0.8, size=NUM_UNITS)
        measurements = experiment(rng.random((8, NUM_UNITS)) < 0.5, truth_U, prior_U, rng)
        tau_of = {
            name: tau(make(registry, name).fit(measurements).importance_U, truth_U) for name in ("shrunk", "ridge")
        }
        gain.append(tau_of["shrunk"] - tau_of["ridge"])
    assert np.mean(gain) > 0.2, gain


def test_shrunk_ignores_a_prior_that_is_wrong(registry: Registry) -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth_U = rng.lognormal(size=NUM_UNITS)
        measurements = experiment(rng.random((40, NUM_UNITS)) < 0.5, truth_U, 1 / truth_U, rng)
        shrunk, ridge = (make(registry, name).fit(measurements) for name in ("shrunk", "ridge"))
        assert shrunk.details["prior_slope"] == 0
        assert tau(shrunk.importance_U, truth_U) > tau(ridge.importance_U, truth_U) - 0.05


def test_hierarchical_recovers_sites_from_few_sub_models(registry: Registry) -> None:
    tau_of: dict[str, list[float]] = {"hierarchical": [], "ridge": []}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        price_S = rng.lognormal(sigma=1.0, size=NUM_SITES)
        truth_U = price_S[SITE_U] * rng.lognormal(sigma=0.3, size=NUM_UNITS)
        prior_U = rng.lognormal(size=NUM_UNITS)
        measurements = experiment(site_shares(8, rng), truth_U, prior_U, rng)
        for name, found in tau_of.items():
            importance_U = make(registry, name).fit(measurements).importance_U
            found.append(tau(np.bincount(SITE_U, importance_U).astype(np.float64), price_S))
    assert np.mean(tau_of["hierarchical"]) > np.mean(tau_of["ridge"]) + 0.05, tau_of
    assert np.mean(tau_of["hierarchical"]) > 0.5, tau_of


def test_hierarchical_stays_with_sites_and_prior_where_units_predict_nothing(registry: Registry) -> None:
    blends = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        prior_U = rng.lognormal(size=NUM_UNITS)
        rank_U = np.concatenate([1 + prior_U[site == SITE_U].argsort().argsort() for site in range(NUM_SITES)])
        truth_U = rng.lognormal(sigma=1.0, size=NUM_SITES)[SITE_U] * rank_U
        fit = make(registry, "hierarchical").fit(experiment(site_shares(20, rng), truth_U, prior_U, rng, noise=0.3))
        blends.append(fit.details["blend"])
        assert fit.details["held_out_tau"] >= fit.details["held_out_tau_of_sites"]
        if fit.details["blend"] == 0:
            for site in range(NUM_SITES):
                inside = site == SITE_U
                assert tau(fit.importance_U[inside], prior_U[inside]) == pytest.approx(1)
    assert np.median(blends) == 0, blends


def test_hierarchical_refines_units_where_sub_models_are_plenty(registry: Registry) -> None:
    rng = np.random.default_rng(0)
    truth_U = rng.lognormal(size=NUM_UNITS)
    measurements = experiment(site_shares(250, rng), truth_U, rng.lognormal(size=NUM_UNITS), rng)
    fit = make(registry, "hierarchical").fit(measurements)
    assert fit.details["blend"] >= 0.75
    assert tau(fit.importance_U, truth_U) > 0.7


def test_hierarchical_with_two_groups_has_no_evidence_to_refine_by(registry: Registry) -> None:
    rng = np.random.default_rng(0)
    ones_U = np.ones(NUM_UNITS)
    fit = make(registry, "hierarchical").fit(
        experiment(site_shares(2, rng), ones_U, rng.lognormal(size=NUM_UNITS), rng)
    )
    assert dict(fit.details) == {"blend": 0.0}


def test_units_that_went_together_differ_by_their_prior_alone(registry: Registry) -> None:
    rng = np.random.default_rng(0)
    keep_MU = (rng.random((10, NUM_SITES)) < 0.5)[:, SITE_U]
    truth_U, prior_U = rng.lognormal(size=NUM_UNITS), rng.lognormal(size=NUM_UNITS)
    measurements = experiment(keep_MU, truth_U, prior_U, rng, noise=0.01)
    first = SITE_U == 0
    for name in ("ridge", "bayes", "elastic"):
        assert np.ptp(make(registry, name).fit(measurements).importance_U[first]) == 0
    for name in ("shrunk", "hierarchical"):
        assert tau(make(registry, name).fit(measurements).importance_U[first], prior_U[first]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["ridge", "bayes", "lasso", "shrunk", "hierarchical", "average"])
def test_a_fit_never_holds_all_that_sub_models_keep_as_numbers(registry: Registry, name: str) -> None:
    """A large model has hundreds of thousands of units."""
    rng = np.random.default_rng(0)
    num_submodels, num_units = 60, 70_000
    keep_MU = rng.random((num_submodels, num_units)) < 0.5
    measurements = Measurements(
        keep_MU,
        rng.normal(size=num_submodels),
        np.arange(num_submodels) // 20,
        rng.random(num_units),
        np.arange(num_units) // 35_000,
        np.full(num_units, 64, dtype=np.int64),
    )
    measurements = measurements.columns(measurements.perturbed_U)
    estimator = make(registry, name)
    estimator.fit(measurements.columns(np.arange(len(measurements.prior_U)) < 10))  # imports
    tracemalloc.start()
    fit = estimator.fit(measurements)
    if fit.spread is not None:
        fit.spread()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.75 * 8 * measurements.keep_MU.size, f"{peak / 1e6:.0f} MB"


@pytest.mark.parametrize("num_effects", [3, 15])
def test_lasso_of_many_units_is_that_of_scikit_learn(num_effects: int) -> None:
    """Beyond what fits in memory as numbers, the same path is found by other means."""
    from sklearn.linear_model import lasso_path

    rng = np.random.default_rng(num_effects)
    keep_MU = np.unique(rng.random((60, 2500)) < 0.5, axis=1)
    truth_U = np.where(np.arange(len(keep_MU.T)) < num_effects, 1.0, 0.0)
    utility_M = keep_MU @ truth_U + 0.1 * rng.standard_normal(60)
    utility_M = (utility_M - utility_M.mean()) / utility_M.std()
    patterns = Patterns(keep_MU.T.copy(), np.arange(len(truth_U)), np.ones(len(truth_U)))
    largest = np.abs(patterns.combined(utility_M)).max() / 60
    alphas = np.geomspace(largest, largest / 20, 5)
    lanes = [np.arange(60), np.arange(40), np.arange(20, 60)]
    paths = list(lasso_paths(patterns, utility_M, lanes, alphas, tolerance=1e-6, iterations=10_000))
    for lane, rows in enumerate(lanes):
        feature_TU = keep_MU[rows] - keep_MU[rows].mean(axis=0)
        centred_T = utility_M[rows] - utility_M[rows].mean()
        expected_UA = lasso_path(feature_TU, centred_T, alphas=alphas, tol=1e-6, max_iter=10_000)[1]
        for solutions, expected_U in zip(paths, expected_UA.T, strict=True):
            found_U = np.zeros(len(truth_U))
            found_U[solutions[lane].feature_W] = solutions[lane].coefficient_W
            np.testing.assert_allclose(found_U, expected_U, rtol=0, atol=1e-2 * max(1e-9, np.abs(expected_U).max()))
