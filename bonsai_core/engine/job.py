"""The job of a run: everything that it works with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import ParentFiles
from bonsai_core.config import RunConfig
from bonsai_core.engine.calibration import Calibration
from bonsai_core.engine.function_metric import FunctionMetric
from bonsai_core.engine.machine import other_devices
from bonsai_core.engine.methods import Methods, runs_in_lockstep
from bonsai_core.engine.plan import Plan, TokenBudget, make_plan, search_tokens
from bonsai_core.engine.submodels import Bench
from bonsai_core.model.forward.latency import total_bytes
from bonsai_core.model.forward.lockstep import Lockstep
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.probe import CalibrationData
from bonsai_core.model.loading.parent import Parent, load_for_sweeps
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.subject import Subject
from bonsai_core.rundir.versions import versions
from bonsai_core.selection.budget import Budget
from bonsai_core.selection.rules import Rules
from bonsai_core.sources import Text
from bonsai_core.units import UnitTable

DISK_MARGIN = 1.1
MOMENTS_SHARE = 1 / 16
"""Of the memory of the device, for second moments that sub-models' repairs need again."""
SCRATCH_BYTES = 2**30
"""On disk beside the checkpoint, for repairs that a resumed run would compute again otherwise."""
PATTERNS_PER_SITE = 4
"""At most this many different repairs per site are computed for a draw, on average over the sites."""


@dataclass(frozen=True)
class Job:
    """Everything that a run works with; nothing of it changes, except the subject's model, which is sliced.

    Attributes:
        parent_files: what the checkpoint takes over.
        subject: the model under pruning.
        calibration: what it calibrates on.
        evaluation_NT: windows for the perplexity before and after, int64 [windows, sequence].
        rules: what selection may remove.
        budget: what the run counts, and how much of it has to leave.
        prices: what the budget had measured for its prices, as plain data; None for nothing.
        dense_bytes: memory of the dense weights, in the type they were loaded in.
        passes: forward passes over the whole of the subject's model.
        lockstep: the same layer by layer, for many sub-models at once.
        slices_between_rounds: whether the model is sliced in place after every round, not only the last one.
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
    budget: Budget
    prices: Mapping[str, Any] | None
    dense_bytes: int
    passes: Passes
    lockstep: Lockstep
    slices_between_rounds: bool

    @property
    def table(self) -> UnitTable:
        """The dense model's units."""
        return self.subject.table

    @cached_property
    def bench(self) -> Bench:
        """What sub-models are measured with in this process."""
        return Bench(self.methods.metric, self.tokenizer, self.passes, self.lockstep)

    @cached_property
    def plan(self) -> Plan:
        """The work ahead."""
        methods, drawn = self.methods, self.calibration
        compared_tokens = sum(data.num_tokens for data in (*drawn.data, *drawn.search)) if methods.compared else 0
        watched = drawn.held_out_NT.size + drawn.guard.windows_NT.size
        own = drawn.data[0].num_tokens if methods.compared else 0
        return make_plan(
            self.config,
            self.budget.fraction,
            TokenBudget(
                statistics=drawn.prior_RNT[0].size * methods.statistics_passes,
                submodel=self.config.submodels * drawn.data[0].num_tokens if methods.needs_submodels else 0,
                search=search_tokens(self.config, drawn.search[0]) if drawn.search else 0,
                divergence=watched + own if watched else 0,
                dense=compared_tokens + watched,
                evaluation=self.evaluation_NT.size,
            ),
        )

    @cached_property
    def repairs_dense(self) -> bool:
        """Whether repairs start from the dense weights, or else from what rounds before have left.

        Mixtures of experts do not: to leave dense experts in files, transformers would write a copy of them.
        """
        return not any(site.in_mixture for site in self.table)

    @cached_property
    def unrepaired(self) -> Lockstep:
        """The layers that repairs start from: of the dense model, whatever has been removed from that under pruning.

        Where that is changed in place, they are read again from the parent's files, one at a time.
        """
        subject, family = self.subject, self.parent.family
        if not self.repairs_dense:
            return self.lockstep
        if subject.storage.files is None:
            model, storage = load_for_sweeps(self.parent, self.config), None
        else:
            model, storage = subject.model, Elsewhere(subject.model, family, subject.storage.files)
        dense = Subject(model, family, units=self.config.units, table=subject.table, storage=storage)
        return Lockstep(dense, self.lockstep.chunks)

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        """What every measurement of the dense model depends on, as plain data; asked for before it is sliced."""
        return {
            "model": self.fingerprint,
            "load_in": self.config.load_in,
            "dtype": self.config.dtype,
            "units": [[s.name, s.num_units, s.unit_params] for s in self.subject.table],
            "chunk_tokens": self.lockstep.chunk_tokens,
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
            "drawn": self.calibration.drawn,
            "evaluation": self.texts[1].describe(),
            "model": self.fingerprint,
            **({"guard": self.calibration.guard.text} if self.calibration.guard.text else {}),
            **({"measured_on": self.calibration.measured_on} if self.calibration.measured_on else {}),
        }

    def submodels_at_once(self, data: CalibrationData) -> int:
        """Sub-models that go through the layers together when measured on this, and into the ledger as a whole."""
        if not runs_in_lockstep(self.methods.metric):
            return 1
        whole = self.whole_batch(data)
        return max(1, self.lockstep.batch_tokens // data.num_tokens // whole) * whole

    def whole_batch(self, data: CalibrationData) -> int:
        """What the number of sub-models in a batch is a multiple of.

        Chunks of windows never straddle two batches then, so that the size of batches changes no number.
        """
        if not runs_in_lockstep(self.methods.metric) or not len(data.windows_NT):
            return 1
        windows, length = data.windows_NT.shape
        in_chunk = self.lockstep.windows_in_chunk(length)
        return in_chunk // math.gcd(in_chunk, windows)

    @cached_property
    def spreads(self) -> bool:
        """Whether other processes measure sub-models."""
        return self.methods.needs_submodels and (self.config.executor == "ray" or bool(self.other_devices))

    @cached_property
    def other_devices(self) -> list[str]:
        """The devices of this machine, besides the subject's, that are used: one process each."""
        is_function = isinstance(self.methods.metric, FunctionMetric)
        return [] if is_function else other_devices(self.config)

    @cached_property
    def keeps_moments(self) -> bool:
        """Whether the second moments of all layers fit into the share of memory that they may have."""
        moments = sum(4 * (site.num_units * site.unit_channels) ** 2 for site in self.table)
        return moments <= MOMENTS_SHARE * total_bytes(self.subject.device)

    @cached_property
    def stores_repairs(self) -> bool:
        """Whether the repairs of all rounds are stored: if other processes need them, else if they fit beside."""
        return self.spreads or len(self.plan.targets) * self._repair_bytes <= SCRATCH_BYTES

    @property
    def disk_bytes(self) -> int:
        """About how much room the pruned checkpoint needs, and what a run stores beside it."""
        kept = 1 - (self.config.sparsity or 0) * self.table.decoder_params / self.table.total_params
        repairs = len(self.plan.targets) * self._repair_bytes if self.stores_repairs else 0
        if not runs_in_lockstep(self.methods.metric) or (self.spreads and self.config.executor == "local"):
            repairs += PATTERNS_PER_SITE * self._repair_bytes  # of sub-models, and of the search's
        return int(DISK_MARGIN * (kept * self.dense_bytes + repairs))

    @property
    def _repair_bytes(self) -> int:
        """Size of one repair of every site."""
        if not self.methods.compensator.changes_weights:
            return 0
        outputs = [self.subject.output(site) for site in self.table if site.has_output]
        numbers = sum(output.in_features * output.out_features for output in outputs)
        return int(numbers * self.dense_bytes / self.table.total_params)
