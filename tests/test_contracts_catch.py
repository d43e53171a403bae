"""The shipped contracts catch what they are for: each broken plugin fails the law it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import PICOS
from pydantic import Field
from torch import Tensor

from bonsai_core import (
    AttentionSite,
    BonsaiError,
    Checkpoint,
    Component,
    DenseTokens,
    Draw,
    Estimator,
    Exporter,
    Family,
    Fit,
    InputCompensator,
    InputPrior,
    Measurements,
    Registry,
    Removal,
    Repair,
    Sampler,
    SampleRequest,
    Shapes,
    SiteView,
    Statistic,
    TokenMetric,
    WeightPrior,
    token_nll,
)
from bonsai_core.testing import (
    CompensatorContract,
    EstimatorContract,
    ExporterContract,
    FamilyContract,
    PriorContract,
    SamplerContract,
    TokenMetricContract,
)
from bonsai_core.testing.component import ComponentContract


class BatchMean(InputPrior):
    """A mean, where a sum is asked for."""

    name: ClassVar[str] = "batch-mean"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.abs().mean(dim=0)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        return statistic.total.mean(dim=-1)


class Positional(WeightPrior):
    """Scores by position, and signed."""

    name: ClassVar[str] = "positional"

    def score(self, site: SiteView) -> Tensor:
        return torch.linspace(-1, 1, site.weight.shape[1]) + torch.rand(1)


class InPlace(InputPrior):
    """Saves memory at the model's expense, and squares without a wide type."""

    name: ClassVar[str] = "in-place"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.abs_().half().square().sum(dim=0)

    def score(self, site: SiteView, statistic: Statistic) -> Tensor:
        return statistic.total.mean(dim=-1)


class Overstated(InputCompensator):
    """Adds twice what was lost, announces nothing, and writes into what it was given."""

    name: ClassVar[str] = "overstated"

    def accumulate(self, inputs: Tensor) -> Tensor:
        return inputs.sum(dim=0)

    def repair(self, removal: Removal, statistic: Statistic) -> Repair:
        lost = statistic.total.div_(statistic.num_tokens)
        return Repair(bias=2.5 * removal.weight.flatten(1) @ lost.flatten().to(removal.weight.dtype))


class Careless(Sampler):
    """Coin flips from the global generator, over dead units too."""

    name: ClassVar[str] = "careless"

    def sample(self, request: SampleRequest, rng: np.random.Generator) -> Draw:
        keep_MU = np.random.random((request.num_submodels, len(request.table))) < 0.5
        return Draw(keep_MU, np.zeros(request.num_submodels))  # type: ignore[arg-type]  # which the law must find


class UpsideDown(TokenMetric):
    """The loss itself as utility, and each token's share of it."""

    name: ClassVar[str] = "upside-down"

    def per_token(self, logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        return token_nll(logits.sub_(logits.mean()), targets) / len(targets)

    def utility(self, value: float) -> float:
        return value


class Positions(Estimator):
    """Learns nothing and ranks all the same."""

    name: ClassVar[str] = "positions"

    def fit(self, measurements: Measurements) -> Fit:
        return Fit(np.arange(measurements.keep_MU.shape[1], dtype=np.float64))


class Leaky(Exporter):
    """Writes beside its target and into the checkpoint, and its runner is its own module, which imports Bonsai."""

    name: ClassVar[str] = "leaky"
    runtime: ClassVar[str] = "Leaky"
    suffix: ClassVar[str] = "txt"
    runner: ClassVar[Path | None] = Path(__file__)

    def refusal(self, checkpoint: Checkpoint) -> str | None:
        return None

    def export(self, checkpoint: Checkpoint, out: Path) -> None:
        out.write_text("")
        (checkpoint.path / "left").write_text("")

    def commands(self, checkpoint: Checkpoint, out: Path) -> list[str]:
        return [f"leaky {out}"]

    def shapes(self, config: Any, family: Family) -> Shapes:
        return Shapes(excluded=("heads",))


class OutOfRange(WeightPrior):
    """Would refuse its own default."""

    name: ClassVar[str] = "out-of-range"
    power: float = Field(9.0, le=6)

    def score(self, site: SiteView) -> Tensor:
        return site.weight.square().sum(dim=(0, 2))


BROKEN: list[tuple[type[ComponentContract[Any]], Component, str]] = [
    (PriorContract, BatchMean(), "splitting_the_batches_changes_nothing"),
    (PriorContract, Positional(), "permuting_units_permutes_scores"),
    (PriorContract, Positional(), "one_finite_non_negative_score_per_unit"),
    (PriorContract, Positional(), "no_global_rng_is_read"),
    (PriorContract, Positional(), "the_same_seed_gives_the_same_scores"),
    (PriorContract, InPlace(), "what_it_is_given_is_not_changed"),
    (PriorContract, InPlace(), "the_extremes_of_half_precision_stay_finite"),
    (PriorContract, OutOfRange(), "every_option_has_a_default_and_it_is_valid"),
    (CompensatorContract, Overstated(), "what_is_not_announced_is_not_given"),
    (CompensatorContract, Overstated(), "what_it_is_given_is_not_changed"),
    (CompensatorContract, Overstated(), "keeping_all_changes_nothing"),
    (CompensatorContract, Overstated(), "repair_never_moves_the_output_further_away"),
    (SamplerContract, Careless(), "keep_vectors_and_groups_have_the_shapes_and_types_asked_for"),
    (SamplerContract, Careless(), "dead_units_stay_dead"),
    (SamplerContract, Careless(), "every_site_keeps_its_smallest_number_of_units"),
    (SamplerContract, Careless(), "sub_models_drop_the_share_asked_for_on_average"),
    (SamplerContract, Careless(), "sub_models_differ_and_can_be_split_for_cross_validation"),
    (SamplerContract, Careless(), "the_same_generator_gives_the_same_draw"),
    (SamplerContract, Careless(), "no_global_rng_is_read"),
    (TokenMetricContract, UpsideDown(), "better_predictions_have_a_higher_utility"),
    (TokenMetricContract, UpsideDown(), "chunks_of_tokens_give_what_the_whole_gives"),
    (TokenMetricContract, UpsideDown(), "what_it_is_given_is_not_changed"),
    (EstimatorContract, Positions(), "a_planted_ranking_is_recovered"),
    (EstimatorContract, Positions(), "constant_utilities_add_no_ranking_of_their_own"),
    (EstimatorContract, Positions(), "permuting_units_permutes_importances"),
    (ExporterContract, Leaky(), "it_names_its_runtime"),
    (ExporterContract, Leaky(), "its_runner_stands_alone"),
    (ExporterContract, Leaky(), "what_it_asks_of_shapes_exists"),
    (ExporterContract, Leaky(), "it_writes_where_it_is_told_and_nowhere_else"),
]


@pytest.mark.parametrize(("contract", "broken", "law"), BROKEN, ids=lambda value: getattr(value, "name", None))
def test_a_broken_component_fails(contract: Any, broken: Component, law: str) -> None:
    class Row(contract):  # type: ignore[misc]
        def make(self) -> Component:
            return broken

    with pytest.raises(AssertionError):
        getattr(Row(), f"test_{law}")()


def test_a_family_with_key_and_query_swapped_fails(registry: Registry) -> None:
    class Row(FamilyContract):
        family: ClassVar[Family] = registry.family("llama").model_copy(
            update={"attention": AttentionSite(key="q_proj", query="k_proj")}
        )

        def make_model(self) -> Any:
            return PICOS[1].build()

    with pytest.raises(BonsaiError, match=r"k_proj has 16 rows, which are not 2 units of 16.*'llama' does not fit"):
        Row().test_masked_equals_sliced_and_costs_are_exact()
