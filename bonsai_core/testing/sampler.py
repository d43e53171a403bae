"""The laws of samplers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bonsai_core.contracts import Draw, Evidence, Sampler, SampleRequest
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng
from bonsai_core.testing.examples import example_table


class SamplerContract(ComponentContract[Sampler]):
    """Inherit, and let `make` return the sampler.

    A sequential sampler is called as by the engine, until nothing is left to draw or it draws nothing.
    """

    def test_keep_vectors_and_groups_have_the_shapes_and_types_asked_for(self) -> None:
        for request in requests():
            draw = self._draw(request)
            wanted = (request.num_submodels, len(request.table))
            if self.make().sequential:
                wanted = (min(len(draw.keep_MU), request.num_submodels), len(request.table))
            assert draw.keep_MU.shape == wanted, f"keep_MU is {draw.keep_MU.shape}, not {wanted}"
            assert draw.keep_MU.dtype == np.bool_, f"keep_MU is {draw.keep_MU.dtype}, not bool"
            assert draw.group_M.shape == wanted[:1], f"group_M is {draw.group_M.shape}, not {wanted[:1]}"
            assert draw.group_M.dtype == np.int64, f"group_M is {draw.group_M.dtype}, not int64"

    def test_dead_units_stay_dead(self) -> None:
        for request in requests():
            assert not self._draw(request).keep_MU[:, ~request.alive_U].any(), f"a dead unit is kept: {request}"

    def test_every_site_keeps_its_smallest_number_of_units(self) -> None:
        for request in requests():
            keep_MU = self._draw(request).keep_MU
            for site, minimum in zip(request.table, request.minimum_S, strict=True):
                enough = min(int(minimum), int(request.alive_U[site.units].sum()))
                kept_M = keep_MU[:, site.units].sum(axis=1)
                assert (kept_M >= enough).all(), f"{site.name} has {kept_M.min()} units left, fewer than {enough}"

    def test_sub_models_drop_the_share_asked_for_on_average(self) -> None:
        for drop_fraction in (0.05, 0.1, 0.25):
            request = _request(drop_fraction=drop_fraction, num_submodels=200)
            dropped = 1 - self._draw(request).keep_MU[:, request.alive_U].mean()
            assert 0.5 * drop_fraction <= dropped <= 1.5 * drop_fraction, f"{dropped:.3f}, not {drop_fraction}"

    def test_sub_models_differ_and_can_be_split_for_cross_validation(self) -> None:
        draw = self._draw(_request())
        assert len(np.unique(draw.keep_MU, axis=0)) > len(draw.keep_MU) // 2, "most sub-models are the same"
        assert len(np.unique(draw.group_M)) >= 3, "fewer than three groups"

    def test_the_same_generator_gives_the_same_draw(self) -> None:
        for request in requests():
            first, second = self._draw(request, seed=3), self._draw(request, seed=3)
            np.testing.assert_array_equal(first.keep_MU, second.keep_MU)
            np.testing.assert_array_equal(first.group_M, second.group_M)

    def test_another_generator_gives_another_draw(self) -> None:
        first, second = self._draw(_request(), seed=3), self._draw(_request(), seed=4)
        assert not np.array_equal(first.keep_MU, second.keep_MU), "the generator makes no difference"

    def test_no_global_rng_is_read(self) -> None:
        assert_no_global_rng(lambda: self._draw(_request()).keep_MU)

    def test_a_sequential_sampler_ends_and_draws_at_most_what_is_left(self) -> None:
        if not self.make().sequential:
            return
        for request in requests():
            left = request.num_submodels
            for number, draw in enumerate(self._draws(request)):
                assert len(draw.keep_MU) <= left, f"{len(draw.keep_MU)} drawn, {left} left"
                assert len(draw.keep_MU) or number, "the first draw is empty"
                left -= len(draw.keep_MU)

    def _draws(self, request: SampleRequest, seed: int = 0) -> Iterator[Draw]:
        """All draws of a round; just one, unless the sampler is sequential."""
        sampler, rng, left = self.make(), np.random.default_rng(seed), request.num_submodels
        while left > 0:
            draw = sampler.sample(replace(request, num_submodels=left), rng)
            yield draw
            left -= len(draw.keep_MU) if sampler.sequential and len(draw.keep_MU) else left
            request = replace(request, evidence=_evidence(request))

    def _draw(self, request: SampleRequest, seed: int = 0) -> Draw:
        """All of a round's sub-models."""
        first, *others = self._draws(request, seed)
        keeps, groups = first.keep_MU, first.group_M
        for draw in others:
            keeps = np.concatenate([keeps, draw.keep_MU])
            groups = np.concatenate([groups, draw.group_M + groups.max() + 1])
        return Draw(keeps, groups)


def _evidence(request: SampleRequest) -> Evidence:
    """Random importances of all living units: some sites seem to be worth nothing at all."""
    importance_U = np.full(len(request.table), np.nan)
    for site in request.table:
        ids = np.flatnonzero(request.alive_U[site.units]) + site.first
        importance_U[ids] = np.random.default_rng(site.first).normal(site.layer, size=len(ids))
    return Evidence(importance_U, np.where(np.isnan(importance_U), np.nan, 1.0))


def requests() -> list[SampleRequest]:
    """What a sampler meets in runs: first and late rounds, few sub-models, constant priors, tiny sites.

    The arrays are read-only: a sampler that changes them raises.
    """
    return [
        _request(),
        _request(drop_fraction=0.25, num_submodels=7, min_units=2, dead_fraction=0.4),
        _request(drop_fraction=0.5, min_units=0, dead_fraction=0.6),
        _request(drop_fraction=0.01, num_submodels=2),
        _request(drop_fraction=0.3, min_units=30),
        _request(drop_fraction=0.2, protect=(0,)),
        _request(constant_prior=1.0),
        _request(constant_prior=0.0, drop_fraction=0.5),
        _request(drop_fraction=0.0),
    ]


def _request(
    *,
    drop_fraction: float = 0.1,
    num_submodels: int = 24,
    min_units: int = 1,
    dead_fraction: float = 0.0,
    constant_prior: float | None = None,
    protect: tuple[int, ...] = (),
) -> SampleRequest:
    table = example_table()
    rng = np.random.default_rng(0)
    alive_U = rng.random(len(table)) >= dead_fraction
    alive_U[table.sites[0].units] &= dead_fraction == 0  # in a late round some site may have nothing left
    prior_U = rng.lognormal(size=len(table)) if constant_prior is None else np.full(len(table), constant_prior)
    prior_U = np.where(alive_U, prior_U, 0.0)
    minimum_S = np.array([site.num_units if site.layer in protect else min_units for site in table], dtype=np.int64)
    for array in (alive_U, prior_U, minimum_S):
        array.setflags(write=False)
    return SampleRequest(table, alive_U, prior_U, drop_fraction, num_submodels, minimum_S)
