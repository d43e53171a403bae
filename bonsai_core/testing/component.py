"""What holds for every component, whatever its kind."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Generic, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from torch import Tensor

from bonsai_core.contracts import (
    Component,
    InputCompensator,
    InputPrior,
    LayerPrior,
    Statistic,
    TextCompensator,
    TextPrior,
)
from bonsai_core.settings.schema import describe_faults, where

EXAMPLES = (1, 0.5, 2, 16, True, "text")
"""Of the values that options take; one of a list of words is one of those."""

C = TypeVar("C", bound=Component)


class ComponentContract(ABC, Generic[C]):
    """Base of the other contracts; inherit one of those."""

    @abstractmethod
    def make(self) -> C:
        """The component under test."""

    def test_it_has_a_name_and_a_summary(self) -> None:
        component = self.make()
        assert component.name == component.name.lower(), "what users type is lower case"
        assert component.summary(), "the first line of the docstring is shown in listings"

    def test_every_option_has_a_default_and_it_is_valid(self) -> None:
        component = type(self.make())
        given = {name: field for name, field in component.model_fields.items() if not field.is_required()}
        try:
            component(**{name: field.get_default(call_default_factory=True) for name, field in given.items()})
        except ValidationError as error:
            raise AssertionError(describe_faults(error, _default_fault)) from None

    def test_unknown_options_are_refused(self) -> None:
        try:
            type(self.make()).model_validate({"no_such_option": 1})
        except ValidationError:
            return
        raise AssertionError("an unknown option was accepted: Component's model_config must stay as it is")

    def test_options_are_frozen(self) -> None:
        component = self.make()
        assert component.model_config.get("frozen"), "Component's model_config must stay as it is"
        for field in type(component).model_fields:
            try:
                setattr(component, field, getattr(component, field))
            except ValidationError:
                continue
            raise AssertionError(f"the option {field!r} can be changed after construction")

    def test_options_survive_a_recipe(self) -> None:
        component = self.make()
        written = json.loads(component.model_dump_json())
        assert type(component)(**written) == component, "options must be plain data, equal after JSON"


def with_defaults(component: type[C]) -> C:
    """A component with the options that it has by default, and for those without a default some value that they take.

    Raises:
        ValidationError: no such value is known.
    """
    required = {name: field for name, field in component.model_fields.items() if field.is_required()}
    return component(**{name: _example(field) for name, field in required.items()})


def _default_fault(row: Any, words: str) -> str:
    if row["type"] == "missing":
        return f"the option {where(row)} has no default, which it needs: users may choose a plugin by its name alone."
    return f"the default of {where(row)} is refused: {words}"


def _example(field: FieldInfo) -> Any:
    annotation: Any = Annotated[field.annotation, *field.metadata]
    taken = TypeAdapter[Any](annotation)
    for value in (*EXAMPLES, *get_args(field.annotation)):
        with suppress(ValidationError):
            return taken.validate_python(value)
    return None


@contextmanager
def global_rng_kept() -> Iterator[None]:
    """Restore the global random number generators after the block."""
    before = _states()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def assert_no_global_rng(compute: Callable[[], NDArray[Any]]) -> None:
    """`compute` returns the same for any state of the global generators, and does not change it."""
    results = []
    with global_rng_kept():
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            before = _states()
            results.append(compute())
            assert _same_states(before, _states()), "a global random number generator was used"
    np.testing.assert_array_equal(results[0], results[1], "global seeds change the result")


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _same_states(a: tuple[Any, Any, torch.Tensor], b: tuple[Any, Any, torch.Tensor]) -> bool:
    numpy_same = all(np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    return a[0] == b[0] and numpy_same and torch.equal(a[2], b[2])


@contextmanager
def unchanged(**tensors: Tensor) -> Iterator[None]:
    """The block must not change these tensors."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]), f"{name} was changed in place"


def statistic_of(reader: TextPrior | TextCompensator, batches: Sequence[Tensor]) -> Statistic:
    """What a prior or compensator receives for batches of inputs, [tokens, units, channels].

    Second moments are those for hidden states of size 1.
    """
    rows = torch.cat([batch.flatten(1) for batch in batches])
    if isinstance(reader, InputPrior | InputCompensator):
        parts = [reader.accumulate(batch) for batch in batches]
        for part, batch in zip(parts, batches, strict=True):
            assert len(part) == batch.shape[1], f"accumulate() must return [units, ...], not {tuple(part.shape)}"
    elif isinstance(reader, LayerPrior):
        states = [(batch.flatten(1), batch.flatten(1) + batch.flatten(1).abs().sqrt()) for batch in batches]
        parts = [reader.accumulate(before, after) for before, after in states]
    else:
        return Statistic(rows.T @ rows, len(rows))
    return Statistic(torch.stack([part.double() for part in parts]).sum(dim=0), len(rows))
