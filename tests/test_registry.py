"""The border where plugins come in: what is wrong is said once, with who is at fault, and stops nobody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import Listener

from bonsai_core import BonsaiError, Registry, hookimpl
from bonsai_core.cli.settings import installed
from bonsai_core.config import PluginChoice
from bonsai_core.events import Warned
from bonsai_core.registry.registry import KINDS

PRIOR = """
from typing import ClassVar
from bonsai_core import WeightPrior, hookimpl

class Mine(WeightPrior):
    "{summary}"
    name: ClassVar[str] = "{name}"
    def score(self, site):
        return site.weight.abs().sum((0, 2))

@hookimpl
def bonsai_priors():
    return [Mine]
"""


class Shelf:
    """A folder on the import path, to put distributions in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, distribution: str, code: str, *, entry_point: str = "plugin") -> None:
        module = distribution.replace("-", "_")
        (self._path / f"{module}.py").write_text(code)
        info = self._path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bonsai]\n{entry_point} = {module}\n")

    def registry(self) -> Registry:
        """Of these distributions alone."""
        return Registry(point for found in distributions(path=[str(self._path)]) for point in found.entry_points)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Shelf(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(registry: Registry, kind: str = "prior") -> list[str]:
    return [offer.name for offer in registry.offers(kind)]


def problems(registry: Registry) -> str:
    return "\n".join(map(str, registry.problems))


def module(**attributes: Any) -> ModuleType:
    found = ModuleType("by_hand")
    vars(found).update(attributes)
    return found


# What pluggy would let pass in silence


@pytest.mark.parametrize("misspelt", ["bonsai_prior", "bonsia_priors", "priors"])
def test_a_misspelt_hook_is_reported_with_the_near_name(shelf: Shelf, misspelt: str) -> None:
    shelf.add("their-plugin", PRIOR.format(name="mine", summary="").replace("bonsai_priors", misspelt))
    registry = shelf.registry()
    assert f"There is no hook {misspelt!r}. Did you mean 'bonsai_priors'?" in problems(registry)
    assert "their-plugin" in problems(registry)
    assert names(registry) == []


def test_a_hook_without_the_mark_is_reported(shelf: Shelf) -> None:
    shelf.add("their-plugin", PRIOR.format(name="mine", summary="").replace("@hookimpl", ""))
    assert "bonsai_priors lacks the @hookimpl mark (from bonsai_core import hookimpl)" in problems(shelf.registry())


def test_a_parameter_with_a_default_is_reported(shelf: Shelf) -> None:
    code = "from bonsai_core import hookimpl\n@hookimpl\ndef bonsai_observe(event=None): ...\n"
    shelf.add("their-plugin", code)
    assert "bonsai_observe must take (event), without defaults" in problems(shelf.registry())


def test_a_second_entry_point_of_one_name_is_not_lost(shelf: Shelf) -> None:
    shelf.add("first-plugin", PRIOR.format(name="first", summary=""), entry_point="pruning")
    shelf.add("second-plugin", PRIOR.format(name="second", summary=""), entry_point="pruning")
    registry = shelf.registry()
    assert names(registry) == ["first", "second"]
    assert registry.problems == []


# Names


def test_a_name_that_two_plugins_offer_is_refused_naming_both(shelf: Shelf) -> None:
    shelf.add("first-plugin", PRIOR.format(name="mine", summary=""))
    shelf.add("second-plugin", PRIOR.format(name="mine", summary=""))
    registry = shelf.registry()
    with pytest.raises(BonsaiError, match=r"'mine' is offered twice, by first-plugin .* and second-plugin .*Uninstall"):
        registry.component_class("prior", "mine")
    assert names(registry) == []


def test_the_same_plugin_under_two_entry_points_counts_once(shelf: Shelf) -> None:
    shelf.add("their-plugin", PRIOR.format(name="mine", summary=""))
    twice = [EntryPoint(name, "their_plugin", "bonsai") for name in ("one", "two")]
    registry = Registry(twice)
    assert names(registry) == ["mine"]
    assert "is the same plugin as" in problems(registry)


def test_an_unknown_name_gets_the_near_match_and_the_list(registry: Registry) -> None:
    with pytest.raises(BonsaiError, match=r"'antithetics'. Did you mean 'antithetic'\? Available: .*antithetic"):
        registry.component_class("sampler", "antithetics")


# Faults


def test_a_plugin_that_fails_to_import_stops_nobody_and_is_named_when_asked_for(shelf: Shelf) -> None:
    shelf.add("broken-plugin", "import a_package_that_is_not_there\n")
    shelf.add("sound-plugin", PRIOR.format(name="mine", summary=""))
    registry = shelf.registry()
    assert names(registry) == ["mine"]
    with pytest.raises(BonsaiError, match=r"no prior 'theirs'.*broken-plugin .*failed to import: ModuleNotFoundError"):
        registry.component_class("prior", "theirs")


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("return [Mine]", "return 1 / 0", "bonsai_priors() raised ZeroDivisionError"),
        ("return [Mine]", "return Mine", "bonsai_priors() must return a list"),
        ("return [Mine]", "return [Mine()]", "which is not a subclass of WeightPrior"),
        ("WeightPrior", "Prior", "which is not a subclass of WeightPrior, InputPrior, LayerPrior or MomentPrior"),
        ("def score", "def scores", "prior Mine does not define score"),
        ('= "mine"', '= "My prior"', "prior Mine needs a lower-case `name`, not 'My prior'"),
    ],
)
def test_an_offer_that_cannot_be_used_is_reported(shelf: Shelf, before: str, after: str, fault: str) -> None:
    shelf.add("their-plugin", PRIOR.format(name="mine", summary="").replace(before, after))
    registry = shelf.registry()
    assert problems(registry).startswith("their-plugin (entry point 'plugin' = their_plugin): ")
    assert fault in problems(registry)
    assert names(registry) == []


def test_a_fault_of_a_plugin_registered_by_hand_is_raised_at_once() -> None:
    with pytest.raises(BonsaiError, match="my notebook: bonsai_priors lacks the @hookimpl mark"):
        Registry(points=[]).register(module(bonsai_priors=lambda: []), "my notebook")


def test_an_option_of_a_wrong_type_is_refused_by_its_full_name(registry: Registry) -> None:
    with pytest.raises(BonsaiError, match=r"estimator.folds of 'ridge': .*integer.*got 'x'"):
        registry.create("estimator", PluginChoice(name="ridge", options={"folds": "x"}))


def test_an_observer_listens_only_while_it_is_asked_to() -> None:
    registry, listener = Registry(points=[]), Listener()
    registry.observe(Warned("before"))
    with registry.observed_by(listener, "a test"):
        registry.observe(Warned("within"))
    registry.observe(Warned("after"))
    with registry.observed_by(listener, "a test"):
        registry.observe(Warned("again"))
    assert listener.events == [Warned("within"), Warned("again")]


# The core knows no plugin by name


def test_without_entry_points_there_are_no_built_ins() -> None:
    registry = Registry(points=[])
    assert [registry.offers(kind) for kind in KINDS] == [[] for _ in KINDS]
    with pytest.raises(BonsaiError, match=r"no estimator 'ridge'. Available: none"):
        registry.component_class("estimator", "ridge")


def test_the_built_ins_are_sound_and_come_from_the_distribution() -> None:
    registry = installed()
    assert registry.problems == []
    assert all(names(registry, kind) for kind in KINDS)
    assert {offer.source.split(" ")[0] for offer in registry.offers("estimator")} == {"bonsai-prune"}


COMPENSATOR = """
from typing import ClassVar
from bonsai_core import {bases}, Repair, hookimpl

class Mine({bases}):
    "Does nothing."
    name: ClassVar[str] = "mine"
    def accumulate(self, inputs):
        return inputs.sum(0)
    def repair(self, removal, statistic):
        return Repair()

@hookimpl
def bonsai_compensators():
    return [Mine]
"""


@pytest.mark.parametrize(
    ("bases", "fault"),
    [
        ("InputCompensator", "compensator Mine must set changes_weights or adds_bias; with neither it is never called"),
        ("InputCompensator, MomentCompensator", "inherits InputCompensator and MomentCompensator: choose one"),
    ],
)
def test_what_the_engine_would_never_call_is_refused(shelf: Shelf, bases: str, fault: str) -> None:
    shelf.add("their-plugin", COMPENSATOR.format(bases=bases))
    registry = shelf.registry()
    assert fault in problems(registry)
    assert names(registry, "compensator") == []


def test_an_observer_for_a_while_leaves_nothing_behind(shelf: Shelf) -> None:
    registry = shelf.registry()

    class Faulty(Listener):
        @hookimpl
        def bonsai_priors(self) -> str:
            return "no list"

    for _ in range(2):  # the second time it is not "registered twice"
        with pytest.raises(BonsaiError, match="must return a list"), registry.observed_by(Faulty(), "the display"):
            pass
