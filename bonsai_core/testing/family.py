"""The laws of slicers: what a family's declaration says fits its models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.contracts import Family
from bonsai_core.model.recognition.laws import (
    TOLERANCE,
    head_mismatch,
    idle_units,
    logits,
    num_params,
    slicing_mismatch,
)
from bonsai_core.model.sites.table import site_kinds
from bonsai_core.model.subject import Subject
from bonsai_core.selection.rules import Rules
from bonsai_core.units import Site, UnitKind, UnitTable
from bonsai_core.upstream import has_hooks


class FamilyContract(ABC):
    """Inherit, set `family`, and let `make_model` return a tiny dense model.

    Attributes:
        family: the declaration under test.
        attention: implementations of attention that every law is checked with.
        units: what the unit table is made for, as for `--units`.
        tolerance: largest difference between logits that should be equal, relative to the largest logit.
    """

    family: ClassVar[Family]
    attention: ClassVar[tuple[str, ...]] = ("eager", "sdpa")
    units: ClassVar[tuple[UnitKind, ...]] = ("layer",)
    tolerance = TOLERANCE

    @abstractmethod
    def make_model(self) -> Any:
        """A new causal LM of the family, float32, on the CPU, with the same weights at every call.

        Random weights are fine, but large ones (a standard deviation of 0.2), so that every unit matters.
        """

    def test_every_layer_has_its_sites(self) -> None:
        subject = self._subject()
        num_layers = subject.model.config.num_hidden_layers
        assert [(site.layer, site.kind) for site in subject.table] == [
            (index, kind)
            for index, layer in subject.layers_present().items()
            for kind in (*site_kinds(layer, subject.family, self.units), "layer")
        ]
        assert len(subject.layers_present()) == num_layers
        decoder = sum(site.num_units * site.unit_params + site.rest_params for site in subject.table)
        assert decoder == subject.table.decoder_params <= subject.table.total_params

    def test_dropped_units_matter(self) -> None:
        subject = self._subject()
        problem = idle_units(subject, ((site, _without_first(subject.table, site)) for site in subject.table))
        assert problem is None, problem

    def test_masked_equals_sliced_and_costs_are_exact(self) -> None:
        """With and without a key-value cache."""
        for implementation in self.attention:
            for keep_U in keep_vectors(self._subject().table):
                subject = self._subject()
                subject.model.set_attn_implementation(implementation)
                assert num_params(subject.model) == subject.table.total_params
                problem = slicing_mismatch(subject, keep_U, self.tolerance)
                assert problem is None, f"{implementation}: {problem}"

    def test_measurements_see_the_models_own_logits(self) -> None:
        problem = head_mismatch(self.make_model(), self.tolerance)
        assert problem is None, problem

    def test_keeping_all_changes_nothing_bit_for_bit(self) -> None:
        subject = self._subject()
        dense = logits(subject.model)
        with subject.masked(subject.table.keep_all()):
            assert torch.equal(logits(subject.model), dense), "masked"
        subject.slice(subject.table.keep_all())
        assert torch.equal(logits(subject.model), dense), "sliced"

    def test_hooks_leave_no_trace(self) -> None:
        subject = self._subject()
        dense = logits(subject.model)
        for keep_U in keep_vectors(subject.table):
            with suppress(KeyboardInterrupt), subject.masked(keep_U):
                logits(subject.model)
                raise KeyboardInterrupt
        assert not has_hooks(subject.model)
        assert torch.equal(logits(subject.model), dense)

    def _subject(self) -> Subject:
        return Subject(self.make_model(), self.family, units=self.units)


def keep_vectors(table: UnitTable) -> list[NDArray[np.bool_]]:
    """Lightly and heavily pruned, with other widths in every layer; without some whole sub-layers, the first attention
    among them; and without the first layer, if layers can leave."""
    rng = np.random.default_rng(0)
    ragged = []
    for share in (0.2, 0.6):
        keep_U = rng.random(len(table)) >= share
        for site in table:
            spared = rng.permutation(site.num_units)[: max(1, site.minimum)]
            keep_U[site.first + spared] = True
            dropped = np.flatnonzero(~keep_U[site.units])
            to_align = -int(keep_U[site.units].sum()) % Rules().multiple(site.kind)
            keep_U[site.first + dropped[:to_align]] = True
        ragged.append(keep_U)
    emptied_U = ragged[0].copy()
    emptied = [site for site in table if site.has_output]
    for site in (*emptied[:1], *emptied[-1:]):
        emptied_U[site.units] = False
    if not table.layer_sites:
        return [*ragged, emptied_U]
    shallow_U = ragged[0].copy()
    _drop_layer(table, 0, shallow_U)
    for site in emptied[-1:]:
        shallow_U[site.units] = False
    return [*ragged, emptied_U, shallow_U]


def _without_first(table: UnitTable, site: Site) -> NDArray[np.bool_]:
    """A keep vector that drops the first unit of a site; if this is a whole layer, all of it."""
    keep_U = table.keep_all()
    keep_U[site.first] = False
    if site.leaves_with_layer:
        _drop_layer(table, site.layer, keep_U)
    return keep_U


def _drop_layer(table: UnitTable, layer: int, keep_U: NDArray[np.bool_]) -> None:
    for site in table:
        if site.layer == layer:
            keep_U[site.units] = False
