"""The job of a run: everything that it works with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import ParentFiles
from bonsai_core.config import RunConfig
from bonsai_core.engine.calibration import Calibration
from bonsai_core.engine.methods import Methods
from bonsai_core.engine.plan import Plan, TokenBudget, make_plan, search_tokens
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.loading.parent import Parent
from bonsai_core.model.subject import Subject
from bonsai_core.rundir.versions import versions
from bonsai_core.selection.rules import Rules
from bonsai_core.sources import Text
from bonsai_core.units import UnitTable

DISK_MARGIN = 1.1


@dataclass(frozen=True)
class Job:
    """Everything that a run works with; nothing of it changes, except the subject's model, which is sliced.

    Attributes:
        parent_files: what the checkpoint takes over.
        subject: the model under pruning.
        calibration: what it calibrates on.
        evaluation_NT: windows for the perplexity before and after, int64 [windows, sequence].
        rules: what selection may remove.
        dense_bytes: memory of the dense weights, in the type they were loaded in.
        passes: forward passes over the subject's model.
        slices_between_rounds: whether a model that is sliced in place is so after every round, not only the last one.
    """

    config: RunConfig
    methods: Methods
    parent: Parent
    parent_files: ParentFiles
    subject: Subject
    tokenizer: Any
    texts: tuple[Text, Text]
    calibration: Calibration
    evaluation_NT: NDArray[np.int64]
    rules: Rules
    dense_bytes: int
    passes: Passes
    slices_between_rounds: bool

    @property
    def table(self) -> UnitTable:
        """The dense model's units."""
        return self.subject.table

    @cached_property
    def plan(self) -> Plan:
        """The work ahead."""
        methods, drawn = self.methods, self.calibration
        compared_tokens = sum(data.num_tokens for data in (*drawn.data, *drawn.search)) if methods.compared else 0
        divergence = drawn.held_out_NT.size + (drawn.data[0].num_tokens if methods.compared else 0)
        return make_plan(
            self.config,
            TokenBudget(
                statistics=drawn.prior_RNT[0].size * methods.statistics_passes,
                submodel=self.config.submodels * drawn.data[0].num_tokens if methods.needs_submodels else 0,
                search=search_tokens(self.config.search, drawn.search[0].windows_NT) if drawn.search else 0,
                divergence=divergence if len(drawn.held_out_NT) else 0,
                dense=compared_tokens + drawn.held_out_NT.size,
                evaluation=self.evaluation_NT.size,
            ),
        )

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        """What every measurement of the dense model depends on, as plain data; asked for before it is sliced."""
        return {
            "model": self.fingerprint,
            "load_in": self.config.load_in,
            "dtype": self.config.dtype,
            "units": [[s.name, s.num_units, s.unit_params] for s in self.subject.table],
            "batch_size": self.config.batch_size,
            "device": self.subject.device.type,
            "versions": versions(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Tells two parents apart; asked for before the model is sliced."""
        return self.subject.storage.fingerprint()

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed, as journaled at its start."""
        return {
            "config": self.config.decisive(),
            "calibration": self.texts[0].describe(),
            "evaluation": self.texts[1].describe(),
            "model": self.fingerprint,
            **({"measured_on": self.calibration.measured_on} if self.calibration.measured_on else {}),
        }

    @property
    def disk_bytes(self) -> int:
        """About how much room the pruned checkpoint needs, and while a round lasts its statistics and repairs."""
        table, methods, scratch = self.table, self.methods, 0
        kept = 1 - self.config.sparsity * table.decoder_params / table.total_params
        if methods.watches_moments:
            scratch += sum(4 * (site.num_units * site.unit_channels) ** 2 for site in table)
        if methods.compensator.changes_weights:
            outputs = [self.subject.output(site) for site in table if site.has_output]
            copies = len(self.plan.targets) + 2  # of every round, of its sub-models, and of the search's
            numbers = sum(output.in_features * output.out_features for output in outputs)
            scratch += int(copies * numbers * self.dense_bytes / table.total_params)
        return int(DISK_MARGIN * (kept * self.dense_bytes + scratch))
