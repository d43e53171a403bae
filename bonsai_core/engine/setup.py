"""Everything that must hold before the first measurement: plugins, texts, model, reachable target, room on disk."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

import bonsai_core
from bonsai_core.checkpoint import check_uniform
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Estimator, Metric, Prior, Sampler
from bonsai_core.engine.plan import Plan, make_plan
from bonsai_core.errors import BonsaiError
from bonsai_core.model.load import (
    Parent,
    find_parent,
    fingerprint,
    load_model,
    load_tokenizer,
    warn_beyond_positions,
)
from bonsai_core.model.subject import Subject
from bonsai_core.registry import Registry
from bonsai_core.selection import Rules, select
from bonsai_core.sources import Text, load_text, windows_of
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class Methods:
    """The chosen plugins."""

    prior: Prior
    sampler: Sampler
    metric: Metric
    estimator: Estimator


@dataclass(frozen=True)
class Workspace:
    """What a run works with; nothing of it changes, except the subject's model, which is sliced.

    Attributes:
        prior_NT: token windows for the prior, int64 [windows, sequence].
        calibration_NT: those that sub-models are measured on; they are the first of `prior_NT`, or the other way round.
        evaluation_NT: those for the perplexity before and after.
        dense_bytes: memory of the dense weights, in the type they were loaded in.
    """

    config: RunConfig
    methods: Methods
    parent: Parent
    subject: Subject
    tokenizer: Any
    texts: tuple[Text, Text]
    prior_NT: NDArray[np.int64]
    calibration_NT: NDArray[np.int64]
    evaluation_NT: NDArray[np.int64]
    rules: Rules
    dense_bytes: int

    @cached_property
    def plan(self) -> Plan:
        """The work ahead."""
        return make_plan(
            self.config,
            calibration_tokens=self.calibration_NT.size,
            evaluation_tokens=self.evaluation_NT.size,
            prior_tokens=self.prior_NT.size if self.methods.prior.needs_data else 0,
            needs_measurements=self.methods.estimator.needs_measurements,
            needs_dense=self.methods.metric.needs_dense,
        )

    @property
    def slices_between_rounds(self) -> bool:
        """Whether removed units leave memory after each round rather than at the end.

        Smaller matrices are faster everywhere except on CUDA with unaligned widths, where masking is kept to the end.
        """
        return self.subject.device.type != "cuda" or self.config.round_to % 64 == 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed, as journaled at its start."""
        return {
            "config": self.config.decisive(),
            "calibration": self.texts[0].describe(),
            "evaluation": self.texts[1].describe(),
            "model": fingerprint(self.subject.model),
        }


def versions() -> dict[str, str]:
    """What the result was computed with."""
    return {
        "bonsai-prune": bonsai_core.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }


def choose_methods(config: RunConfig, registry: Registry) -> Methods:
    """The configured plugins, their options checked."""
    return Methods(
        cast(Prior, registry.create("prior", config.prior)),
        cast(Sampler, registry.create("sampler", config.sampler)),
        cast(Metric, registry.create("metric", config.metric)),
        cast(Estimator, registry.create("estimator", config.estimator)),
    )


def open_workspace(config: RunConfig, registry: Registry, warn: Callable[[str], None]) -> Workspace:
    """Load and check everything; cheap checks come first.

    Raises:
        BonsaiError: anything is missing, unsupported or impossible; nothing has been written then.
    """
    methods = choose_methods(config, registry)
    parent = find_parent(config.model, registry, slicer=config.slicer, trust_remote_code=config.trust_remote_code)
    texts = load_text(config.dataset, config.eval_dataset)
    tokenizer = load_tokenizer(parent.source, trust_remote_code=config.trust_remote_code)
    most = max(config.samples, config.prior_samples)
    drawn_NT = windows_of(
        texts[0],
        tokenizer,
        num_windows=most,
        sequence_length=config.sequence_length,
        seed=config.seed,
        what="calibration",
        warn=warn,
    )
    evaluation_NT = windows_of(
        texts[1],
        tokenizer,
        num_windows=config.eval_samples,
        sequence_length=config.eval_sequence_length,
        seed=None,
        what="evaluation",
        warn=warn,
    )
    warn_beyond_positions(parent.config, max(config.sequence_length, config.eval_sequence_length), warn)
    model = load_model(
        parent.source, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code
    )
    dense_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    subject = Subject(model, parent.family)
    rules = make_rules(config, subject.table, parent)
    _check_target(config, subject.table, rules)
    return Workspace(
        config,
        methods,
        parent,
        subject,
        tokenizer,
        texts,
        drawn_NT[: config.prior_samples],
        drawn_NT[: config.samples],
        evaluation_NT,
        rules,
        dense_bytes,
    )


def make_rules(config: RunConfig, table: UnitTable, parent: Parent) -> Rules:
    """The selection's rules; for uniform shapes, with the head counts that the stock class accepts."""
    counts = None
    if config.shapes == "uniform":
        groups = next(site.num_units for site in table if site.kind == "attention")
        counts = tuple(count for count in range(1, groups + 1) if _stock_accepts(parent, count, groups))
    return Rules(config.rank, config.round_to, config.min_units, config.shapes, counts)


def check_disk(path: Path, needed_bytes: int) -> None:
    """Refuse before the work starts if its result would not fit.

    Raises:
        BonsaiError: less is free than the checkpoint needs.
    """
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise BonsaiError(
            f"Not enough room at {existing}: the pruned checkpoint needs about {needed_bytes / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free. Make room, or choose another --out."
        )


def _stock_accepts(parent: Parent, count: int, groups: int) -> bool:
    attention = parent.family.attention
    heads = getattr(parent.config, attention.heads_field)
    sizes = {attention.groups_field: count, attention.heads_field: heads // groups * count}
    try:
        check_uniform(parent.config, sizes)
    except BonsaiError:
        return False
    return True


def _check_target(config: RunConfig, table: UnitTable, rules: Rules) -> None:
    """Selecting without any importance tells whether the target can be reached at all."""
    unmeasured_U = np.full(len(table), np.nan)
    select(table, table.keep_all(), unmeasured_U, np.zeros(len(table)), config.sparsity, rules)
