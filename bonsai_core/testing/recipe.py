"""The laws of recipes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.config import PluginChoice, RunConfig
from bonsai_core.contracts import Recipe
from bonsai_core.registry.registry import COMPONENTS, Registry


class RecipeContract(ABC):
    """Inherit, and let `make` return the recipe.

    Attributes:
        kind: what it configures, a run (``recipe``) or an ``adaptation``.
    """

    kind: ClassVar[Literal["recipe", "adaptation"]] = "recipe"

    @abstractmethod
    def make(self) -> Recipe:
        """The recipe under test."""

    def test_it_has_a_name_and_a_summary(self) -> None:
        recipe = self.make()
        assert recipe.name == recipe.name.lower() != "", "what users type is lower case"
        assert recipe.summary, "the summary is shown in listings"

    def test_its_settings_are_valid(self) -> None:
        settings = dict(self.make().settings)
        if self.kind == "adaptation":
            AdaptConfig.from_mapping({"model": "demo", **settings}, "the recipe")
        else:
            RunConfig.from_mapping(settings, "the recipe")

    def test_its_plugins_are_installed_and_take_their_options(self) -> None:
        registry = Registry()
        for kind, choice in self.make().settings.items():
            if kind in COMPONENTS and self.kind == "recipe":
                registry.create(kind, PluginChoice.model_validate(choice))
