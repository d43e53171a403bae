"""The laws of priors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import Prior, SiteView, TextPrior, WeightPrior
from bonsai_core.model.forward.statistics import score_fault
from bonsai_core.testing.component import ComponentContract, assert_no_global_rng, statistic_of, unchanged

ROUNDING = 1e-5
FLOAT16_MAX = 65504.0
TOKENS, OUT = 96, 10
SEED = 7


class PriorContract(ComponentContract[Prior]):
    """Inherit, and let `make` return the prior."""

    def test_one_finite_non_negative_score_per_unit(self) -> None:
        for units, channels in ((1, 1), (48, 1), (3, 16)):
            inputs, weight = _example(units, channels)
            score_U = score(self.make(), [inputs], weight)
            fault = score_fault(torch.from_numpy(score_U), units)
            assert fault is None, f"scores of {units} units of {channels} channels: {fault}"

    def test_splitting_the_batches_changes_nothing(self) -> None:
        inputs, weight = _example()
        whole_U = score(self.make(), [inputs], weight)
        for sizes in ([1, 31, 64], [1] * TOKENS):
            split_U = score(self.make(), list(torch.split(inputs, sizes)), weight)
            np.testing.assert_allclose(split_U, whole_U, rtol=ROUNDING, err_msg=f"batches of {sizes} tokens")

    def test_permuting_units_permutes_scores(self) -> None:
        inputs, weight = _example()
        order = np.random.default_rng(0).permutation(12)
        score_U = score(self.make(), [inputs], weight)
        permuted_U = score(self.make(), [inputs[:, order]], weight[:, order], unit_ids=order)
        np.testing.assert_allclose(permuted_U, score_U[order], rtol=ROUNDING)

    def test_the_same_seed_gives_the_same_scores(self) -> None:
        inputs, weight = _example()
        first_U, second_U = (score(self.make(), [inputs], weight) for _ in range(2))
        np.testing.assert_array_equal(first_U, second_U)

    def test_no_global_rng_is_read(self) -> None:
        inputs, weight = _example()
        assert_no_global_rng(lambda: score(self.make(), [inputs], weight))

    def test_the_extremes_of_half_precision_stay_finite(self) -> None:
        inputs, weight = _example()
        extremes = {
            "the largest float16": inputs.sign() * FLOAT16_MAX,
            "float16": inputs.half().float(),
            "bfloat16": inputs.bfloat16().float(),
            "the smallest float16": inputs.sign() * 2.0**-24,
            "zero": torch.zeros_like(inputs),
        }
        for what, values in extremes.items():
            score_U = score(self.make(), [values], weight)
            fault = score_fault(torch.from_numpy(score_U), len(score_U))
            assert fault is None, f"for inputs of {what}: {fault}"

    def test_what_it_is_given_is_not_changed(self) -> None:
        prior = self.make()
        inputs, weight = _example()
        view = SiteView(weight, np.arange(12), SEED)
        with unchanged(inputs=inputs, weight=weight):
            if isinstance(prior, TextPrior):
                statistic = statistic_of(prior, [inputs])
                with unchanged(total=statistic.total):
                    prior.score(view, statistic)
            else:
                _score(prior, view, [inputs])


def score(
    prior: Prior, batches: Sequence[Tensor], weight: Tensor, unit_ids: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """The prior's scores, computed as the engine does: statistics summed over batches in float64."""
    ids = np.arange(weight.shape[1]) if unit_ids is None else unit_ids
    with torch.inference_mode():
        score_U = _score(prior, SiteView(weight, ids, SEED), batches)
    assert isinstance(score_U, Tensor), score_fault(score_U, len(ids))
    return score_U.cpu().double().numpy()


def _score(prior: Prior, view: SiteView, batches: Sequence[Tensor]) -> Tensor:
    if isinstance(prior, TextPrior):
        return prior.score(view, statistic_of(prior, batches))
    assert isinstance(prior, WeightPrior), "inherit WeightPrior, InputPrior, LayerPrior or MomentPrior"
    return prior.score(view)


def _example(units: int = 12, channels: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs [tokens, units, channels] of different sizes by channel, and a weight [out, units, channels]."""
    generator = torch.Generator().manual_seed(units)
    size = torch.rand(units, channels, generator=generator) + 0.1
    inputs = torch.randn(TOKENS, units, channels, generator=generator) * size
    return inputs, torch.randn(OUT, units, channels, generator=generator)
