"""Every built-in keeps the laws of its kind. A new one adds a row to the table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import GROUPED, MIXTURES, PICOS, Pico, family_of

from bonsai_core import Component, Registry
from bonsai_core.config import PluginChoice
from bonsai_core.registry.registry import COMPONENTS
from bonsai_core.testing import FamilyContract, RecipeContract
from bonsai_core.testing.check import check, contract_of, laws_of
from bonsai_core.testing.sampler import requests

# Of every built-in, the options it is checked with.
TABLE: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("prior", "activation"): [{}],
    ("prior", "block-influence"): [{}],
    ("prior", "fluctuation"): [{}, {"standardised": True}],
    ("prior", "frequency"): [{}],
    ("prior", "magnitude"): [{}],
    ("prior", "obs"): [{}, {"steps": 3, "damping": 0.1}],
    ("prior", "random"): [{}],
    ("prior", "reap"): [{}],
    ("prior", "uniform"): [{}],
    ("prior", "wanda"): [{}],
    ("sampler", "adaptive"): [{}, {"rule": "bounds", "batch": 2, "settled": 1.0}],
    ("sampler", "antithetic"): [{}],
    ("sampler", "bernoulli"): [{}],
    ("sampler", "global"): [{}, {"level": "unit"}],
    ("sampler", "stratified"): [{}, {"steps": 3}],
    ("metric", "choice"): [{}, {"measures": "accuracy"}, {"per_byte": True}],
    ("metric", "kl"): [{}],
    ("metric", "nll"): [{}],
    ("metric", "perplexity"): [{}],
    ("compensator", "bias"): [{}],
    ("compensator", "least_squares"): [{}],
    ("compensator", "none"): [{}],
    ("exporter", "gguf"): [{}],
    ("exporter", "hf"): [{}],
    ("exporter", "mlx"): [{}],
    ("exporter", "onnx"): [{}],
    ("exporter", "plan"): [{}],
    ("exporter", "stock"): [{}],
    ("exporter", "vllm"): [{}, {"tensor_parallel": 2}],
    ("tracker", "mlflow"): [{}],
    ("tracker", "tensorboard"): [{}],
    ("tracker", "trackio"): [{}],
    ("tracker", "wandb"): [{"mode": "offline"}],
    ("estimator", "average"): [{}],
    ("estimator", "bayes"): [{}],
    ("estimator", "elastic"): [{}],
    ("estimator", "hierarchical"): [{}],
    ("estimator", "lasso"): [{}, {"folds": 2, "strengths": 5}],
    ("estimator", "none"): [{}, {"allocation": "global"}],
    ("estimator", "ridge"): [{}, {"towards": "zero"}, {"towards": "kind"}],
    ("estimator", "shrunk"): [{}],
}


@pytest.fixture(autouse=True, scope="module")
def records_stay_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trackers that are installed write to a folder that the test removes."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("TRACKIO_DIR", str(folder))
        yield


def _cases() -> Iterator[Any]:
    registry = Registry()
    for (kind, name), rows in TABLE.items():
        contract = contract_of(registry.component_class(kind, name))
        for options in rows:
            label = "-".join([kind, name, *(f"{k}={v}" for k, v in options.items())])
            for law in laws_of(contract):
                choice = PluginChoice(name=name, options=options)
                yield pytest.param(contract, registry.create(kind, choice), law, id=f"{label}-{law[5:]}")


@pytest.mark.parametrize(("contract", "component", "law"), list(_cases()))
def test_law(contract: Any, component: Component, law: str) -> None:
    class Row(contract):  # type: ignore[misc]
        def make(self) -> Component:
            return component

    getattr(Row(), law)()


@pytest.mark.parametrize("kind", ["recipe", "adaptation"])
def test_every_recipe_keeps_the_laws(registry: Registry, kind: str) -> None:
    for offer in registry.offers(kind):
        outcomes = list(check(RecipeContract, __name__, kind=kind, make=lambda case, recipe=offer.item: recipe))
        assert len(outcomes) == len(laws_of(RecipeContract))
        assert not [outcome for outcome in outcomes if outcome.failure], offer.name


@pytest.mark.parametrize("law", laws_of(FamilyContract))
@pytest.mark.parametrize(
    ("pico", "counted"),
    [
        *((pico, ("layer",)) for pico in PICOS),
        *((pico, ("query", "layer")) for pico in GROUPED),
        *((pico, ("expert_width", "layer")) for pico in MIXTURES),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_family_law(registry: Registry, pico: Pico, counted: Any, law: str) -> None:
    class Row(FamilyContract):
        units = counted
        family = family_of(registry, pico)

        attention = ("eager",) if pico.family == "gemma2" else FamilyContract.attention  # as transformers has it

        def make_model(self) -> Any:
            return pico.build()

    getattr(Row(), law)()


def test_every_built_in_has_a_row(registry: Registry) -> None:
    assert not registry.problems
    ours = [offer for kind in COMPONENTS for offer in registry.offers(kind) if offer.source.startswith("bonsai-prune ")]
    assert {(offer.kind, offer.name) for offer in ours} == set(TABLE)


def test_every_model_type_of_a_built_in_family_has_a_pico(registry: Registry) -> None:
    declared = {(family.name, model_type) for family in registry.families() for model_type in family.model_types}
    assert declared == {(family_of(registry, pico).name, pico.family) for pico in PICOS}


def test_antithetic_pairs_never_drop_a_unit_twice(registry: Registry) -> None:
    sampler: Any = registry.create("sampler", PluginChoice(name="antithetic"))
    for request in requests():
        draw = sampler.sample(request, np.random.default_rng(0))
        for group in np.unique(draw.group_M):
            pair = draw.keep_MU[draw.group_M == group]
            assert len(pair) == 2 or (len(pair) == 1 and request.num_submodels % 2 == 1)
            if len(pair) == 2:
                assert pair[:, request.alive_U].any(axis=0).all()
