"""Everything that must hold before the first measurement: plugins, texts, model, reachable target, room on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bonsai_core.checkpoint import check_uniform
from bonsai_core.config import RunConfig
from bonsai_core.contracts import Family
from bonsai_core.engine.budget import Counted, check_budget, find_budget, measure_prices, timed_pass
from bonsai_core.engine.calibration import draw_calibration
from bonsai_core.engine.function_metric import ModelFunction
from bonsai_core.engine.job import Job
from bonsai_core.engine.machine import multiples_in
from bonsai_core.engine.methods import choose_methods
from bonsai_core.engine.plan import round_targets
from bonsai_core.engine.runtimes import warn_of_pattern
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Event, TokensDone, Warned
from bonsai_core.model.forward.chunks import Chunks, default_tokens
from bonsai_core.model.forward.lockstep import Lockstep
from bonsai_core.model.forward.passes import Passes
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
from bonsai_core.registry.registry import Registry
from bonsai_core.selection.budget import Budget
from bonsai_core.selection.limits import fractions, minimums
from bonsai_core.selection.rules import Rules
from bonsai_core.sources import evaluation_windows, load_text
from bonsai_core.units import Site, UnitTable

ALIGNED_WIDTH = 64
"""Channels of an MLP."""


def open_job(
    config: RunConfig,
    registry: Registry,
    notify: Callable[[Event], None],
    function: ModelFunction | None = None,
    prices: Mapping[str, Any] | None = None,
) -> Job:
    """Load and check everything; cheap checks come first.

    Args:
        prices: what the budget had measured when the run was started; None: it is measured now.

    Raises:
        BonsaiError: anything is missing, unsupported or impossible; nothing has been written then.
    """

    def warn(text: str) -> None:
        notify(Warned(text))

    methods = choose_methods(config, registry, function)
    if config.executor != "local" and not methods.needs_submodels:
        warn(f"--executor {config.executor} has nothing to do: {config.estimator.name} needs no sub-models measured.")
    find_device(config.device)
    parent = find_parent(config, registry, warn=warn)
    if parent.family.name == RECOGNISED:
        warn(
            f"No family is declared for the model type {parent.config.model_type!r}. Its structure was recognised, and "
            f"masking equals slicing on a small model of it: {_describe(parent.family)}."
        )
    warn_of_pattern(config, parent.config, warn)
    texts = load_text(config.dataset, config.eval_dataset)
    tokenizer = load_tokenizer(parent.source, trust_remote_code=config.trust_remote_code)
    parent_files = find_parent_files(parent.source, parent.as_read, tokenizer)
    start = start_token(parent.family, tokenizer)
    calibration = draw_calibration(config, methods, texts, tokenizer, warn, start)
    evaluation_NT = evaluation_windows(texts[1], tokenizer, config, warn, start)
    check_tokens(parent.config, tokenizer, (*calibration.token_ids(), evaluation_NT))
    longest = max(config.sequence_length, config.eval_sequence_length)
    if config.target_latency is not None:
        longest = max(longest, timed_pass(config).longest)
    check_positions(parent.config, parent.family, longest, warn)
    subject, dense_bytes = open_subject(parent, config, warn)
    rules = make_rules(config, subject.table, parent)
    for kind in rules.stuck(subject.table):
        warn(f"No unit of the kind {kind} can leave with {rules.describe()}.")
    prices = prices or measure_prices(config, subject)
    budget = find_budget(config, Counted(subject, dense_bytes, methods.compensator.adds_bias), prices)
    if budget.target is not None:
        rules = _paying(rules, budget, subject.table, warn)
    check_budget(budget, rules)
    windows = config.batch_size * config.sequence_length if config.batch_size else default_tokens(subject.device)
    chunks = Chunks(windows, warn, lambda tokens: notify(TokensDone(tokens)))
    return Job(
        config,
        methods,
        parent,
        parent_files,
        subject,
        tokenizer,
        texts,
        calibration.of_rounds(len(round_targets(config, budget.fraction))),
        evaluation_NT,
        rules,
        budget,
        prices,
        dense_bytes,
        Passes(subject.model, chunks),
        Lockstep(subject, chunks, config.batch_tokens),
        # Smaller matrices are faster everywhere but on CUDA with unaligned widths.
        slices_between_rounds=subject.in_place
        and (subject.device.type != "cuda" or rules.multiple("mlp") % ALIGNED_WIDTH == 0),
    )


def open_subject(parent: Parent, config: RunConfig, warn: Callable[[str], None]) -> tuple[Subject, int]:
    """The model under pruning, and the memory of its dense weights in the type they were loaded in.

    Raises:
        BonsaiError: it cannot be loaded.
    """
    if not config.weights_elsewhere:
        model = load_parent(parent, config, warn)
        subject = Subject(model, parent.family, units=config.units)
        return subject, sum(p.numel() * p.element_size() for p in model.parameters())
    table = table_of(parent, config)
    if config.load_in != "full":
        _warn_of_experts(table, config.load_in, warn)
    model = load_parent(parent, config, warn)
    files = WeightFiles(weights_directory(parent.source), model)
    subject = Subject(model, parent.family, table=table, storage=Elsewhere(model, parent.family, files))
    return subject, files.num_bytes()


def _warn_of_experts(table: UnitTable, load_in: str, warn: Callable[[str], None]) -> None:
    """Experts are parameters of three dimensions, which bitsandbytes leaves as they are."""
    experts = sum(site.num_units * site.unit_params for site in table if site.in_mixture)
    if experts:
        share = experts / table.total_params
        warn(
            f"--load-in {load_in} quantises linears only. {share:.0%} of this model are experts, which are not linears "
            f"and stay as they are. If it does not fit, give --device-map auto instead."
        )


def _describe(family: Family) -> str:
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
        round_to=multiples_in(config, table),
        min_units=minimums(config.min_units),
        max_fraction=fractions(config.max_fraction),
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


def _stock_accepts(parent: Parent, site: Site, count: int) -> bool:
    """Whether the stock class can be built with this many units in every attention."""
    try:
        check_uniform(parent.config, SITES[site.kind].sizes(parent.family, parent.config, count), parent.family)
    except BonsaiError:
        return False
    return True


def _paying(rules: Rules, budget: Budget, table: UnitTable, warn: Callable[[str], None]) -> Rules:
    """The rules without kinds of unit that reduce nothing of what the budget counts."""
    paying = rules.paying(budget.table)
    for kind in rules.units:
        if kind not in (*paying.units, *rules.stuck(table)):
            warn(f"Units of the kind {kind} stay: without them, {budget.option} is no closer.")
    return paying
