"""Checks an installed plugin by the laws of its kind, and prints what becomes of each."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bonsai_core.cli.live import quiet_libraries
from bonsai_core.cli.plugin_page import origin
from bonsai_core.cli.printing import plain
from bonsai_core.contracts import Exporter, Family, Recipe
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.model.recognition.recognise import small_model
from bonsai_core.registry.registry import Offer
from bonsai_core.testing import FamilyContract, RecipeContract
from bonsai_core.testing.check import Outcome, check, contract_of
from bonsai_core.testing.component import with_defaults

MOST_LINES = 6  # of the message of a law that fails


def print_check(offer: Offer, model: str | None, trust_remote_code: bool) -> bool:
    """Print every law as soon as it is known whether it holds.

    Args:
        model: for a slicer, of which a small random model is made.

    Returns:
        Whether all hold.
    """
    console = Console(highlight=False)
    outcomes = _outcomes(offer, model, trust_remote_code)
    console.print(Text.assemble((f"{offer.kind} ", "bold"), plain(offer.name), " from ", plain(origin(offer))))
    num_laws = num_failed = 0
    before = None
    for outcome in outcomes:
        num_laws += 1
        if outcome.failure is None:
            console.print(Text.assemble("  ", ("holds", "green"), "  ", outcome.law))
        else:
            num_failed += 1
            console.print(Text.assemble("  ", ("FAILS", "bold red"), "  ", outcome.law))
            told = Text("the same") if outcome.failure == before else _first_lines(outcome.failure)
            console.print(Padding(told, (0, 0, 0, 9)))
            before = outcome.failure
    console.print(f"{num_failed} of {num_laws} laws fail." if num_failed else f"All {num_laws} laws hold.")
    return not num_failed


def _first_lines(failure: str) -> Text:
    """What people need of a message: arrays that differ are written over many lines."""
    lines = [line for line in failure.splitlines() if line.strip()]
    return plain("\n".join([*lines[:MOST_LINES], *(["..."] if len(lines) > MOST_LINES else [])]), lines=True)


def _outcomes(offer: Offer, model: str | None, trust_remote_code: bool) -> Iterator[Outcome]:
    item = offer.item
    if isinstance(item, Recipe):
        return check(RecipeContract, __name__, kind=offer.kind, make=lambda case: item)
    if isinstance(item, Family) or issubclass(item, Exporter):
        quiet_libraries()
    if isinstance(item, Family):
        return _family_outcomes(item, model, trust_remote_code)
    return check(contract_of(item), item.__module__, make=lambda case: with_defaults(item))


def _family_outcomes(family: Family, model: str | None, trust_remote_code: bool) -> Iterator[Outcome]:
    if model is None:
        raise BonsaiError(
            f"The laws of slicers need a model of the family {family.name!r}. Add --model and its directory or Hugging "
            f"Face id: a small random model is made from its configuration."
        )
    config = model_config(find_source(model), trust_remote_code)
    if not family.covers(config.model_type, config):
        raise BonsaiError(
            f"{model} is of model type {config.model_type}, which the slicer {family.name!r} is not for. It is for: "
            f"{', '.join(family.model_types)}."
        )
    # Some models differ by more than rounding between implementations of attention; all have the eager one.
    return check(
        FamilyContract, __name__, family=family, attention=("eager",), make_model=lambda case: small_model(config)
    )
