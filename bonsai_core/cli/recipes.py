"""What people see of recipes: the list, and one as a commented file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.cli.printing import name as shown_name
from bonsai_core.cli.printing import plain
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Recipe
from bonsai_core.registry.recipes import offered_recipes
from bonsai_core.registry.registry import Registry
from bonsai_core.settings.recipe_files import recipe_text

USES = {
    "recipe": "bonsai run --config {}",
    "adaptation": "bonsai adapt RUN --config {}, or bonsai run --adapt {}",
}
"""How a recipe of each kind is used."""
OTHERS = "Others"
NOT_MEASURED = "not measured here"


def recipe_list(registry: Registry) -> RenderableType:
    """All recipes by kind and group: what each is, what it costs and what it gives."""
    parts: list[RenderableType] = []
    for kind, use in USES.items():
        groups = defaultdict[str, list[Recipe]](list)
        for recipe in offered_recipes(registry, kind).values():
            groups[recipe.group or OTHERS].append(recipe)
        parts.append(Text(f"{'' if not parts else chr(10)}{use.format('NAME', 'NAME')}", style="bold"))
        for group in sorted(groups, key=lambda group: (group == OTHERS, group)):
            parts += [Text.assemble("\n", shown_name(group)), _table(groups[group])]
    parts.append(Text("\nbonsai recipe show NAME has the settings, and how its figures were measured."))
    parts.append(Text("bonsai recipe copy NAME FILE.yaml writes them to a file, for you to change."))
    return Group(*parts)


def _table(recipes: list[Recipe]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for recipe in recipes:
        facts = {"costs": recipe.cost, "gives": recipe.gives}
        known = [Text.assemble((f"{word} ", "dim"), plain(fact)) for word, fact in facts.items() if fact]
        if known and not recipe.measured:
            known.append(Text(NOT_MEASURED, style="dim"))
        table.add_row(shown_name(recipe.name), Group(plain(recipe.summary), *known))
    return table


def recipe_file(recipe: Recipe, kind: str, source: str, use: str, *, with_defaults: bool) -> str:
    """A recipe as a file for ``--config``, with what is known about it as comments.

    Args:
        source: the distribution that it is from.
        use: what to type after ``--config``.

    Raises:
        BonsaiError: it has a setting that is refused.
    """
    settings: Mapping[str, object] = recipe.settings
    where = f"the recipe {recipe.name} of {source}"
    if kind == "adaptation":  # the model is an argument of the command
        config: RunConfig | AdaptConfig = AdaptConfig.from_mapping({"model": "demo", **settings}, where)
    else:
        config = RunConfig.from_mapping(settings, where)
    return recipe_text(config, settings, _heading(recipe, kind, source, use), with_defaults=with_defaults)


def _heading(recipe: Recipe, kind: str, source: str, use: str) -> Iterator[str]:
    yield f"{recipe.name} ({source}): {recipe.summary}"
    yield ""
    if recipe.cost:
        yield f"Costs: {recipe.cost}."
    if recipe.gives:
        yield f"Gives: {recipe.gives}."
    if recipe.cost or recipe.gives:
        yield f"Measured: {recipe.measured or 'not here.'}"
    if recipe.source:
        yield f"Source: {recipe.source}"
    yield f"Use: {USES[kind].format(use, use)}"
    if not recipe.settings:
        yield "It changes no setting."
