"""Everything that must hold before the first measurement: plugins, texts, model, reachable target, room on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import ParentFiles, check_uniform
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Family
from bonsai_core.engine.calibration import Calibration, draw_calibration
from bonsai_core.engine.function_metric import ModelFunction
from bonsai_core.engine.methods import Methods, choose_methods
from bonsai_core.engine.plan import Plan, TokenBudget, make_plan, search_tokens
from bonsai_core.engine.runtimes import tell_of_pattern
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Event, TokensDone, Warned
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.probe import CalibrationData
from bonsai_core.model.loading.checked_config import weights_directory
from bonsai_core.model.loading.input_limits import check_positions, check_tokens, start_token
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.parent import Parent, find_parent, load_parent, table_of
from bonsai_core.model.loading.parent_files import find_parent_files
from bonsai_core.model.recognition.recognise import NAME as RECOGNISED
from bonsai_core.model.sites.table import SITES
from bonsai_core.model.storage.devices import find_device
from bonsai_core.model.storage.elsewhere import Elsewhere
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.subject import Subject
from bonsai_core.registry.recipes import is_recipe_file
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.versions import versions
from bonsai_core.selection.rules import Rules
from bonsai_core.selection.select import select
from bonsai_core.sources import Text, absolute_names, evaluation_windows, load_text
from bonsai_core.units import Site, UnitTable

DISK_MARGIN = 1.1


@dataclass(frozen=True)
class Workspace:
    """What a run works with; nothing of it changes, except the subject's model, which is sliced.

    Attributes:
        parent_files: what the checkpoint takes over.
        calibration: what it calibrates on.
        evaluation_NT: those for the perplexity before and after.
        dense_bytes: memory of the dense weights, in the type they were loaded in.
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
                submodel=self.config.submodels * drawn.data[0].num_tokens if methods.measured else 0,
                search=search_tokens(self.config.search, drawn.search[0].windows_NT) if drawn.search else 0,
                divergence=divergence if len(drawn.held_out_NT) else 0,
                dense=compared_tokens + drawn.held_out_NT.size,
                evaluation=self.evaluation_NT.size,
            ),
        )

    @cached_property
    def dense_origin(self) -> dict[str, Any]:
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

    def draw_of(self, number: int) -> int:
        """Which draw of calibration data round `number` uses."""
        return (number - 1) % len(self.calibration.prior_RNT)

    def prior_windows(self, number: int) -> NDArray[np.int64]:
        """The prior's windows in round `number`, int64 [windows, sequence]."""
        windows_NT: NDArray[np.int64] = self.calibration.prior_RNT[self.draw_of(number)]
        return windows_NT

    def data_of(self, number: int) -> CalibrationData:
        """What sub-models are measured on in round `number`."""
        return self.calibration.data[self.draw_of(number)]

    @property
    def slices_between_rounds(self) -> bool:
        """Whether removed units leave memory after each round rather than at the end.

        Smaller matrices are faster everywhere except on CUDA with unaligned widths, where masking is kept to the end.
        """
        if not self.subject.in_place:
            return False
        return self.subject.device.type != "cuda" or self.rules.multiple("mlp") % 64 == 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed, as journaled at its start."""
        return {
            "config": self.config.decisive(),
            "calibration": self.texts[0].describe(),
            "evaluation": self.texts[1].describe(),
            "model": self.fingerprint,
            **({"measured_on": self.calibration.measured_on} if self.calibration.measured_on else {}),
        }


def open_workspace(
    config: RunConfig, registry: Registry, warn: Callable[[str], None], function: ModelFunction | None = None
) -> Workspace:
    """Load and check everything; cheap checks come first.

    Raises:
        BonsaiError: anything is missing, unsupported or impossible; nothing has been written then.
    """
    methods = choose_methods(config, registry, function)
    find_device(config.device)
    parent = find_parent(
        config.model, registry, slicer=config.slicer, trust_remote_code=config.trust_remote_code, warn=warn
    )
    if parent.family.name == RECOGNISED:
        warn(
            f"No family is declared for the model type {parent.config.model_type!r}. Its structure was recognised, and "
            f"masking equals slicing on a small model of it: {_told(parent.family)}."
        )
    tell_of_pattern(config, parent.config, warn)
    texts = load_text(config.dataset, config.eval_dataset)
    tokenizer = load_tokenizer(parent.source, trust_remote_code=config.trust_remote_code)
    parent_files = find_parent_files(parent.source, parent.as_read, tokenizer)
    start = start_token(parent.family, tokenizer)
    calibration = draw_calibration(config, methods, texts, tokenizer, warn, start)
    evaluation_NT = evaluation_windows(texts[1], tokenizer, config, warn, start)
    check_tokens(parent.config, tokenizer, (*calibration.token_ids(), evaluation_NT))
    longest = max(config.sequence_length, config.eval_sequence_length)
    check_positions(parent.config, parent.family, longest, warn)
    if config.frozen:
        table = table_of(parent, config)
        if config.load_in != "full":
            _tell_of_experts(table, config.load_in, warn)
        model = load_parent(parent, config, warn)
        files = WeightFiles(weights_directory(parent.source), model)
        subject = Subject(model, parent.family, table=table, storage=Elsewhere(model, parent.family, files))
        dense_bytes = files.num_bytes()
    else:
        model = load_parent(parent, config, warn)
        subject = Subject(model, parent.family, units=config.units)
        dense_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    rules = make_rules(config, subject.table, parent)
    for kind in rules.stuck(subject.table):
        warn(f"No unit of the kind {kind} can leave with {rules.told()}.")
    _check_target(config, subject.table, rules)
    return Workspace(
        config,
        methods,
        parent,
        parent_files,
        subject,
        tokenizer,
        texts,
        calibration,
        evaluation_NT,
        rules,
        dense_bytes,
    )


def _tell_of_experts(table: UnitTable, load_in: str, warn: Callable[[str], None]) -> None:
    """Experts lie in parameters of three dimensions, which bitsandbytes leaves as they are."""
    experts = sum(site.num_units * site.unit_params for site in table if site.in_mixture)
    if experts:
        warn(
            f"--load-in {load_in} quantises linears, and the experts of this model, {experts / table.total_params:.0%} "
            f"of it, are none: they stay as they are. If it does not fit, give --device-map auto instead."
        )


def _told(family: Family) -> str:
    """Where the units of a recognised family are."""
    sites = [site for site in (family.attention, family.mlp) if site is not None]
    return ", ".join(f"{family.layers}.*.{site.path(site.output)}" for site in sites) + (
        f" (attention stays whole: {family.why})" if family.why else ""
    )


def make_rules(config: RunConfig, table: UnitTable, parent: Parent) -> Rules:
    """The selection's rules; for uniform shapes, with the head counts that the stock class accepts."""
    counts = None
    limited = [site for site in table if site.limited_by_stock and site.kind in config.units]
    if config.shapes == "uniform" and limited:
        counts = tuple(n for n in range(1, limited[0].num_units + 1) if _stock_accepts(parent, limited[0], n))
    return Rules(
        units=config.units,
        rank=config.rank,
        round_to=config.round_to,
        min_units=config.min_units,
        max_fraction=config.max_fraction,
        protect=_protected(config, 1 + max(site.layer for site in table)),
        shapes=config.shapes,
        attention_counts=counts,
    )


def _protected(config: RunConfig, num_layers: int) -> frozenset[int]:
    wrong = [layer for layer in config.protect if not -num_layers <= layer < num_layers]
    if wrong:
        raise BonsaiError(
            f"--protect {','.join(map(str, wrong))}: the model has layers 0 to {num_layers - 1}; "
            f"negative numbers count from the last one, -1."
        )
    return frozenset(layer % num_layers for layer in config.protect)


def passes_over(work: Workspace, observe: Callable[[Event], None]) -> Passes:
    """Forward passes over the run's subject, which tell what they do."""
    return Passes(
        work.subject.model,
        work.config.batch_size,
        on_warning=lambda text: observe(Warned(text)),
        on_tokens=lambda tokens: observe(TokensDone(tokens)),
    )


def disk_bytes(work: Workspace) -> int:
    """About how much room the pruned checkpoint needs, and while a round lasts its statistics and repairs."""
    table = work.subject.table
    kept = 1 - work.config.sparsity * table.decoder_params / table.total_params
    methods, scratch = work.methods, 0
    if methods.watches_moments:
        scratch += sum(4 * (site.num_units * site.unit_channels) ** 2 for site in table)
    if methods.compensator.repairs and methods.compensator.changes_weights:
        outputs = [work.subject.output(site) for site in table if site.has_output]
        copies = len(work.plan.targets) + 2  # of every round, of its sub-models, and of the search's
        numbers = sum(output.in_features * output.out_features for output in outputs)
        scratch += int(copies * numbers * work.dense_bytes / table.total_params)
    return int(DISK_MARGIN * (kept * work.dense_bytes + scratch))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same, with files and folders named so that a resume from elsewhere finds them."""
    names = ["model", "dataset", "eval_dataset", "metric_dataset"]
    names += ["adapt"] if config.adapt is not None and is_recipe_file(config.adapt) else []
    return config.model_copy(update=absolute_names({name: getattr(config, name) for name in names}))


def _stock_accepts(parent: Parent, site: Site, count: int) -> bool:
    """Whether the stock class can be built with so many units in every attention."""
    try:
        check_uniform(parent.config, SITES[site.kind].sizes(parent.family, parent.config, count), parent.family)
    except BonsaiError:
        return False
    return True


def _check_target(config: RunConfig, table: UnitTable, rules: Rules) -> None:
    """Selecting without any importance tells whether the target can be reached at all."""
    unmeasured_U = np.full(len(table), np.nan)
    select(table, table.keep_all(), unmeasured_U, np.zeros(len(table)), config.sparsity, rules)
