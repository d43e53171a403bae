"""The laws of estimators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import Estimator, Fit, Measurements
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng

NUM_UNITS, NUM_SITES = 30, 3
MANY, FEW = 400, 12


class EstimatorContract(ComponentContract[Estimator]):
    """Inherit, and let `make` return the estimator.

    Estimators with `needs_measurements` False read no measurements: only the laws on shape, permutation and
    randomness hold for them.

    Attributes:
        minimum_tau: Kendall's tau to a planted ranking that has to be reached with many sub-models; None: as the
            estimator says.
        tolerance: largest change, relative to the largest importance, when units or sub-models are permuted.
    """

    minimum_tau: float | None = None
    tolerance = 1e-3

    def test_one_finite_importance_per_unit(self) -> None:
        for num_units, num_submodels in ((NUM_UNITS, MANY), (NUM_UNITS, FEW), (1, FEW), (100, 6)):
            importance_U = self._fit(measured(num_units, num_submodels))
            assert importance_U.shape == (num_units,), f"{num_units} units got shape {importance_U.shape}"
            assert np.isfinite(importance_U).all(), f"not finite: {importance_U}"

    def test_one_pair_of_sub_models_is_enough_to_fit(self) -> None:
        assert np.isfinite(self._fit(measured(NUM_UNITS, 2))).all()

    def test_a_planted_ranking_is_recovered(self) -> None:
        from scipy.stats import kendalltau

        estimator = self.make()
        if not estimator.needs_measurements:
            return
        enough = estimator.minimum_tau if self.minimum_tau is None else self.minimum_tau
        for scale in (1.0, 1e-4):
            tau = kendalltau(self._fit(measured(scale=scale)), planted()).statistic
            assert tau > enough, f"Kendall's tau {tau:.2f}, not above {enough}, with utilities of size {scale}"

    def test_constant_utilities_add_no_ranking_of_their_own(self) -> None:
        if not self.make().needs_measurements:
            return
        for constant in (0.0, -0.1, 1 / 3, -1e6 - 0.1):
            for num_submodels in (FEW, MANY):
                measurements = measured(num_submodels=num_submodels)
                constant_M = np.full(num_submodels, constant)
                importance_U = self._fit(replace(measurements, utility_M=constant_M))
                spread = float(np.ptp(importance_U))
                assert spread == 0, f"utilities of {constant} throughout gave importances that differ by {spread:.3g}"

    def test_permuting_units_permutes_importances(self) -> None:
        m, order = measured(), np.random.default_rng(1).permutation(NUM_UNITS)
        permuted = Measurements(
            m.keep_MU[:, order], m.utility_M, m.group_M, m.prior_U[order], m.site_U[order], m.cost_U[order]
        )
        self._assert_close(self._fit(permuted), self._fit(m)[order])

    def test_permuting_sub_models_changes_nothing(self) -> None:
        measurements = measured()
        order = np.random.default_rng(1).permutation(MANY)
        if not self.make().needs_measurements:
            order = order[:0]
        self._assert_close(self._fit(measurements.rows(order)), self._fit(measurements))

    def test_the_spread_is_given_as_promised_and_shrinks_with_more_sub_models(self) -> None:
        if not self.make().gives_spread:
            assert self._whole_fit(measured()).spread is None, "a spread is returned, but gives_spread is False"
            return
        for num_units, num_submodels in ((NUM_UNITS, MANY), (NUM_UNITS, FEW), (NUM_UNITS, 2), (1, FEW), (100, 6)):
            measurements = measured(num_units, num_submodels)
            self._spread(measurements)
            self._spread(replace(measurements, utility_M=np.full(num_submodels, -0.1)))
        few, many = self._spread(measured(num_submodels=FEW)).mean(), self._spread(measured()).mean()
        assert many < few, f"mean spread {few:.3g} with {FEW} sub-models, {many:.3g} with {MANY}"

    def test_no_global_rng_is_read(self) -> None:
        assert_no_global_rng(lambda: self._fit(measured(num_submodels=FEW)))

    def _whole_fit(self, measurements: Measurements) -> Fit:
        estimator = self.make()
        if not estimator.needs_measurements:
            measurements = measurements.rows(np.zeros(0, dtype=np.intp))
        return estimator.fit(measurements)

    def _fit(self, measurements: Measurements) -> NDArray[np.float64]:
        return np.asarray(self._whole_fit(measurements).importance_U)

    def _spread(self, measurements: Measurements) -> NDArray[np.float64]:
        spread, shape = self._whole_fit(measurements).spread, measurements.prior_U.shape
        assert spread is not None, "gives_spread is True, but no spread is returned"
        spread_U = spread()
        assert spread_U.shape == shape, f"{shape[0]} units got spreads of shape {spread_U.shape}"
        assert np.isfinite(spread_U).all(), f"not finite: {spread_U}"
        assert (spread_U >= 0).all(), f"negative: {spread_U}"
        return np.asarray(spread_U)

    def _assert_close(self, actual_U: NDArray[np.float64], expected_U: NDArray[np.float64]) -> None:
        atol = self.tolerance * float(np.abs(expected_U).max())
        np.testing.assert_allclose(actual_U, expected_U, rtol=0, atol=atol)


def planted(num_units: int = NUM_UNITS) -> NDArray[np.float64]:
    """The importances behind `measured`, all different."""
    return np.random.default_rng(5).permutation(np.linspace(-0.2, 1.0, num_units) ** 3)


def measured(num_units: int = NUM_UNITS, num_submodels: int = MANY, scale: float = 1.0) -> Measurements:
    """Pairs of complementary sub-models, whose utility is what they keep, plus noise.

    The prior is independent of the planted importances. The arrays are read-only: changing them raises.
    """
    rng = np.random.default_rng(num_units)
    drawn_PU = rng.random(((num_submodels + 1) // 2, num_units)) < 0.5
    keep_MU = np.stack([drawn_PU, ~drawn_PU], axis=1).reshape(-1, num_units)[:num_submodels]
    noise_M = 0.02 * rng.standard_normal(num_submodels)
    site_U = np.arange(num_units) * NUM_SITES // num_units
    measurements = Measurements(
        keep_MU,
        scale * (keep_MU @ planted(num_units) + noise_M) - 3.0,
        np.arange(num_submodels) // 2,
        rng.lognormal(size=num_units),
        site_U,
        100 * (1 + site_U),
    )
    for array in vars(measurements).values():
        array.setflags(write=False)
    return measurements
