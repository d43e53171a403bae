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
from bonsai_core.contracts import Compensator, Estimator, Metric, Prior, Sampler
from bonsai_core.engine.function_metric import PREFIX, FunctionMetric, ModelFunction
from bonsai_core.engine.plan import Plan, Work, make_plan, round_targets
from bonsai_core.errors import BonsaiError
from bonsai_core.model.load import (
    Parent,
    find_parent,
    fingerprint,
    load_model,
    load_tokenizer,
    warn_beyond_positions,
)
from bonsai_core.model.probe import CalibrationData
from bonsai_core.model.subject import Subject
from bonsai_core.registry import Registry
from bonsai_core.selection import Rules, select
from bonsai_core.sources import (
    Text,
    describe_rows,
    draw_questions,
    load_metric_text,
    load_text,
    read_rows,
    windows_of,
)
from bonsai_core.units import UnitTable


@dataclass(frozen=True)
class Methods:
    """The chosen plugins."""

    prior: Prior
    sampler: Sampler
    metric: Metric
    estimator: Estimator
    compensator: Compensator

    @property
    def measured(self) -> bool:
        """Whether sub-models are measured at all."""
        return self.estimator.needs_measurements

    @property
    def compared(self) -> bool:
        """Whether sub-models are compared with the dense model."""
        return self.measured and self.metric.needs_dense


@dataclass(frozen=True)
class Workspace:
    """What a run works with; nothing of it changes, except the subject's model, which is sliced.

    Attributes:
        prior_RNT: token windows for the prior and the compensator, int64 [draws, windows, sequence]; one draw for all
            rounds, or one for each.
        data: what sub-models are measured on, per draw; unless it is named in the configuration, the first of
            `prior_RNT`, or the other way round.
        measured_on: where `data` is from, if it was named.
        evaluation_NT: those for the perplexity before and after.
        dense_bytes: memory of the dense weights, in the type they were loaded in.
    """

    config: RunConfig
    methods: Methods
    parent: Parent
    subject: Subject
    tokenizer: Any
    texts: tuple[Text, Text]
    prior_RNT: NDArray[np.int64]
    data: tuple[CalibrationData, ...]
    measured_on: dict[str, Any] | None
    evaluation_NT: NDArray[np.int64]
    rules: Rules
    dense_bytes: int

    @cached_property
    def plan(self) -> Plan:
        """The work ahead."""
        prior_tokens = self.prior_RNT[0].size
        data_tokens = sum(data.num_tokens for data in self.data)
        return make_plan(
            self.config,
            Work(
                prior=prior_tokens if self.methods.prior.needs_data else 0,
                repair=prior_tokens if self.methods.compensator.repairs else 0,
                submodel=self.config.submodels * self.data[0].num_tokens if self.methods.measured else 0,
                dense=data_tokens if self.methods.compared else 0,
                evaluation=self.evaluation_NT.size,
            ),
        )

    @cached_property
    def dense_origin(self) -> dict[str, Any]:
        """What every measurement of the dense model depends on, as plain data; asked for before it is sliced."""
        return {
            "model": fingerprint(self.subject.model),
            "batch_size": self.config.batch_size,
            "device": self.subject.device.type,
            "versions": versions(),
        }

    def prior_windows(self, number: int) -> NDArray[np.int64]:
        """The prior's windows in round `number`, int64 [windows, sequence]."""
        windows_NT: NDArray[np.int64] = self.prior_RNT[(number - 1) % len(self.prior_RNT)]
        return windows_NT

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
            **({"measured_on": self.measured_on} if self.measured_on else {}),
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


def choose_methods(config: RunConfig, registry: Registry, function: ModelFunction | None = None) -> Methods:
    """The configured plugins, their options checked, and whether they fit together.

    Raises:
        BonsaiError: no such plugin or option, or two that do not work together.
    """
    if function is None and config.metric.name.startswith(PREFIX):
        raise BonsaiError(
            f"The metric is the Python function {config.metric.name.removeprefix(PREFIX)}, which no command line "
            f"knows. Hand it over in Python: bonsai_core.run(config, metric=function) or resume(run, metric=function)."
        )
    metric = FunctionMetric(function=function) if function else cast(Metric, registry.create("metric", config.metric))
    methods = Methods(
        cast(Prior, registry.create("prior", config.prior)),
        cast(Sampler, registry.create("sampler", config.sampler)),
        metric,
        cast(Estimator, registry.create("estimator", config.estimator)),
        cast(Compensator, registry.create("compensator", config.compensator)),
    )
    if methods.measured and methods.sampler.sequential and not methods.estimator.gives_spread:
        offered = [cast(type[Estimator], offer.item) for offer in registry.offers("estimator")]
        able = [estimator.name for estimator in offered if estimator.gives_spread]
        raise BonsaiError(
            f"The sampler {config.sampler.name!r} asks the estimator how sure it is, which {config.estimator.name!r} "
            f"does not say. Estimators that do: {', '.join(able) or 'none'}."
        )
    if methods.compared and metric.reads != "text":
        raise BonsaiError(f"The metric {metric.name!r} compares with the dense model, so it must read text.")
    if methods.compensator.adds_bias and config.shapes == "uniform":
        raise BonsaiError(
            f"The compensator {config.compensator.name!r} adds biases, which stock checkpoints have no place for: use "
            f"--shapes free, or another --compensator."
        )
    return methods


def open_workspace(
    config: RunConfig, registry: Registry, warn: Callable[[str], None], function: ModelFunction | None = None
) -> Workspace:
    """Load and check everything; cheap checks come first.

    Raises:
        BonsaiError: anything is missing, unsupported or impossible; nothing has been written then.
    """
    methods = choose_methods(config, registry, function)
    parent = find_parent(config.model, registry, slicer=config.slicer, trust_remote_code=config.trust_remote_code)
    texts = load_text(config.dataset, config.eval_dataset)
    tokenizer = load_tokenizer(parent.source, trust_remote_code=config.trust_remote_code)
    drawn_RNT = _calibration_windows(config, texts[0], tokenizer, max(config.samples, config.prior_samples), warn)
    data, measured_on = _calibration_data(config, methods, texts, tokenizer, drawn_RNT, warn)
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
        drawn_RNT[:, : config.prior_samples],
        data,
        measured_on,
        evaluation_NT,
        rules,
        dense_bytes,
    )


def _calibration_windows(
    config: RunConfig, text: Text, tokenizer: Any, num_windows: int, warn: Callable[[str], None]
) -> NDArray[np.int64]:
    """int64 [draws, windows, sequence]: one draw for all rounds, or one for each."""
    draws = len(round_targets(config)) if config.resample == "fresh" else 1
    windows_NT = windows_of(
        text,
        tokenizer,
        num_windows=num_windows,
        sequence_length=config.sequence_length,
        seed=config.seed,
        what="calibration",
        warn=warn,
        draws=draws,
    )
    return windows_NT.reshape(draws, -1, config.sequence_length)


def _calibration_data(
    config: RunConfig,
    methods: Methods,
    texts: tuple[Text, Text],
    tokenizer: Any,
    drawn_RNT: NDArray[np.int64],
    warn: Callable[[str], None],
) -> tuple[tuple[CalibrationData, ...], dict[str, Any] | None]:
    """What sub-models are measured on, per draw, and where it is from if it is not the calibration text."""
    reads, name = methods.metric.reads, config.metric_dataset
    if reads == "nothing" or not methods.measured:
        if name is not None:
            warn("--metric-dataset is not used: no sub-model is measured on it.")
        return tuple(CalibrationData() for _ in drawn_RNT), None
    if reads == "text":
        if name is None:
            return tuple(CalibrationData(windows_NT[: config.samples]) for windows_NT in drawn_RNT), None
        text = texts[0] if name == config.dataset else load_metric_text(name)
        if texts[1].text in text.text:
            raise BonsaiError(
                "--metric-dataset holds the evaluation text: sub-models would be chosen by what they are evaluated on."
            )
        windows_RNT = _calibration_windows(config, text, tokenizer, config.samples, warn)
        return tuple(CalibrationData(windows_NT) for windows_NT in windows_RNT), dict(text.describe())
    if name is None:
        raise BonsaiError(
            f"The metric {config.metric.name!r} reads multiple-choice questions: name a .jsonl file of them with "
            f"--metric-dataset."
        )
    rows = read_rows(name)
    drawn = (
        draw_questions(rows, tokenizer, num_questions=config.samples, seed=config.seed, draw=draw, warn=warn)
        for draw in range(len(drawn_RNT))
    )
    return tuple(CalibrationData(questions=questions) for questions in drawn), dict(describe_rows(name, rows))


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
