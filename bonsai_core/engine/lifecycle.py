"""A whole run: from a configuration to a smaller checkpoint and its report; and the same again after a kill."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import adapted_report
from bonsai_core.adaptation.lifecycle import AdaptResult
from bonsai_core.config import Executor, PluginChoice, RunConfig
from bonsai_core.engine.exports import export_for_runtimes, suited_to_runtimes
from bonsai_core.engine.finish import finish
from bonsai_core.engine.follow_up import check_ahead, check_publishing, follow_up, planned_adaptation
from bonsai_core.engine.function_metric import ModelFunction, choice_of
from bonsai_core.engine.machine import suited_to_machine
from bonsai_core.engine.packages import plugin_packages
from bonsai_core.engine.page import page_of
from bonsai_core.engine.setup import open_job
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Warned
from bonsai_core.executors.ray_cluster import check_ray
from bonsai_core.pages.comparison import Entry
from bonsai_core.pages.quick import QuickLook, compare_runs, look_at_run
from bonsai_core.pages.write import write_page
from bonsai_core.publishing.consent import consented, refuse_unstored
from bonsai_core.publishing.loading import write_card
from bonsai_core.publishing.push import check_push, push_once
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory, check_disk, free_path, refuse_changes, refuse_code
from bonsai_core.rundir.ledger import IDENTITY, Ledger
from bonsai_core.rundir.measurement_cache import MeasurementCache
from bonsai_core.runtimes.export import Exported
from bonsai_core.tracking.observer import tracked

CHECKED = ("calibration", "evaluation", "model", "guard", "measured_on")
"""What a resumed run must find as it was; its configuration is checked before anything is loaded."""


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is stored and what it found.

    Attributes:
        directory: the run directory.
        report: the contents of report.json.
        adapted: of the adaptation that followed, if one was configured.
        exported: what was written for the runtimes that were configured, in that order.
        pushed: the address on the hub, if it was to be pushed.
    """

    directory: Path
    report: Mapping[str, Any]
    adapted: AdaptResult | None = None
    exported: tuple[Exported, ...] = ()
    pushed: str | None = None

    @classmethod
    def open(cls, path: Path | str) -> RunResult:
        """A finished run, by its directory. No model is loaded, and `exported` is left empty.

        Raises:
            BonsaiError: there is no run, it is not finished, or its report is damaged.
        """
        directory = RunDirectory.open(Path(path))
        report, adapted = directory.finished_report(), adapted_report(directory.adapted_path)
        return cls(directory.path, report, None if adapted is None else AdaptResult(directory.adapted_path, adapted))

    @property
    def model_path(self) -> Path:
        """The pruned checkpoint."""
        return RunDirectory(self.directory).model_path

    def summary(self) -> str:
        """The verdict on the run and its main numbers, as plain text."""
        return str(self._look())

    def compare(self, other: RunResult, *others: RunResult) -> QuickLook:
        """This run and others side by side: quality, size, speed, memory. Print it, or let a notebook show it."""
        return compare_runs([result._entry() for result in (self, other, *others)])

    def _repr_html_(self) -> str:
        return self._look()._repr_html_()

    def _look(self) -> QuickLook:
        return look_at_run(self.report, None if self.adapted is None else self.adapted.report)

    def _entry(self) -> Entry:
        return Entry(self.directory, self.report, None if self.adapted is None else self.adapted.report)


def run(
    config: RunConfig,
    *,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    cache: MeasurementCache | None = None,
) -> RunResult:
    """Prune a model as configured.

    Args:
        config: what to do.
        registry: plugins and observers; None loads all installed ones.
        metric: `function(model, tokenizer)`, higher is better, to measure sub-models with instead of the configured
            metric. It may run the model as often as it likes, and must leave it as it is.
        cache: where several runs keep what they measure of the dense model.

    Raises:
        BonsaiError: something is wrong that the user can fix; the message says what.
    """
    registry = registry or Registry()
    check_push(config)
    if config.executor == "ray":
        check_ray(config.ray_address)
    config = suited_to_runtimes(suited_to_machine(config), registry)
    if metric is not None:
        config = config.model_copy(update={"metric": choice_of(metric)})
    path = config.out or free_path(Path("runs"), f"{Path(config.model).name}-{config.budget_name}")
    directory = RunDirectory(path)
    directory.refuse_occupied()
    plan = planned_adaptation(config, registry, path)
    if plan:
        check_publishing(plan, registry)
        check_ahead(plan, config, registry)
    with ExitStack() as holding:  # the directory, until all is written and pushed
        with tracked(config.tracker, config.decisive(), registry):
            job = open_job(config, registry, registry.observe, metric)
            check_disk(path, job.disk_bytes)
            journal = holding.enter_context(directory.begin(config, registry.observe))
            ledger = Ledger(directory, journal, registry.observe, cache)
            ledger.check_identity(IDENTITY, job.identity(), CHECKED, plugin_packages(job, registry))
            report = finish(job, ledger)
        del job  # its weights make room
        return _followed_up(RunResult(path, report), plan, config, registry)


def resume_run(
    path: Path | str,
    *,
    trust_remote_code: bool = False,
    push_to_hub: str | None = None,
    tracker: str | PluginChoice | None = None,
    executor: Executor | None = None,
    ray_address: str | None = None,
    workers: int | None = None,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    cache: MeasurementCache | None = None,
) -> RunResult:
    """Continue a run that was interrupted; a finished one is returned as it is.

    Args:
        path: the run directory.
        trust_remote_code: allow modeling code that comes with the model, where the run was started so.
        push_to_hub: the name on the hub that it was started with, if it is to be pushed there; None: it is not pushed.
        tracker: the name of the tracker that it was started with, if that is to go on; a choice with options is used
            in its place; None: nothing is sent. What is left out is said as a warning, with the option that turns it
            on.
        executor, ray_address, workers: what measures the sub-models that are left; None: this machine.
        registry, metric, cache: as for `run`; a run that was started with a function as metric needs it again.

    Raises:
        BonsaiError: there is no run, its configuration, text or model changed, or another process has it.
    """
    registry = registry or Registry()
    directory = RunDirectory.open(Path(path))
    config = directory.config()
    if isinstance(tracker, PluginChoice):
        config, tracker = config.model_copy(update={"tracker": tracker}), tracker.name
    config = _measured_again_by(config, path, executor, ray_address, workers, registry)
    if config.executor == "ray":
        check_ray(config.ray_address)
    plan = planned_adaptation(config, registry, directory.path)
    refuse_unstored(directory.path, config, *([plan] if plan else []), push_to_hub=push_to_hub, tracker=tracker)
    wanted = config.trust_remote_code or (plan is not None and plan.trust_remote_code)
    refuse_code(path, wanted=wanted, trusted=trust_remote_code)
    last = directory.path if plan is None else directory.adapted_path
    agree = partial(
        consented,
        path=directory.path,
        push_to_hub=push_to_hub,
        tracker=tracker,
        warn=lambda text: registry.observe(Warned(text)),
        pushes_from=last,
    )
    config = agree(config)
    plan = planned_adaptation(config, registry, directory.path)  # again: it has the run's tracker, if that may go on
    if plan is not None:
        plan = agree(plan)
        check_publishing(plan, registry, last)
    check_push(config, last)
    if metric is not None and choice_of(metric) != config.metric:
        raise BonsaiError(
            f"{path} measures sub-models by {config.metric.name!r}, not by {choice_of(metric).name!r}. Resume it with "
            f"what it was started with, or start a new run."
        )
    with directory.reopen(registry.observe) as journal:  # until all is written and pushed
        with tracked(config.tracker, config.decisive(), registry):
            if "run" in journal:
                before = RunConfig.from_mapping(journal["run"]["config"], "the journal").decisive()  # + newer settings
                refuse_changes("configuration", before, config.decisive())
            job = open_job(config, registry, registry.observe, metric, journal.get("prices"))
            ledger = Ledger(directory, journal, registry.observe, cache)
            ledger.check_identity(IDENTITY, job.identity(), CHECKED, plugin_packages(job, registry))
            directory.remove_temporaries()
            report = finish(job, ledger)
        del job  # its weights make room
        return _followed_up(RunResult(directory.path, report), plan, config, registry)


def _measured_again_by(
    config: RunConfig,
    path: Path | str,
    executor: Executor | None,
    ray_address: str | None,
    workers: int | None,
    registry: Registry,
) -> RunConfig:
    """The settings with what measures sub-models now: a file alone does not decide which hosts are asked.

    Raises:
        BonsaiError: these do not fit together.
    """
    given = {"executor": executor, "ray_address": ray_address, "workers": workers}
    if executor is None and ray_address is None and config.executor != "local":
        address = "" if config.ray_address is None else f" --ray-address {shlex.quote(config.ray_address)}"
        registry.observe(
            Warned(
                f"{path} was started with --executor {config.executor}{address}, which is left out: this machine "
                f"measures alone. If you want it: bonsai resume {shlex.quote(str(path))} --executor {config.executor}"
                f"{address}"
            )
        )
        given["executor"] = "local"
    elif given == dict.fromkeys(given):
        return config
    given["executor"] = given["executor"] or ("ray" if ray_address is not None else "local")
    return RunConfig.from_mapping({**config.model_dump(mode="json"), **given}, "the options")


def _followed_up(result: RunResult, plan: AdaptConfig | None, config: RunConfig, registry: Registry) -> RunResult:
    """What is to happen after a run: its card, an adaptation, exports of what came out last, the page, and a push."""
    write_card(result.directory, registry, trust_remote_code=config.trust_remote_code)
    adapted = follow_up(plan, registry) if plan else None
    last = result.directory if adapted is None else adapted.directory
    exported = export_for_runtimes(last, config, registry)
    if config.page:
        directory = RunDirectory(result.directory)
        trust = config.trust_remote_code
        write_page(
            directory,
            lambda: page_of(directory, result.report, registry, trust_remote_code=trust),
            registry.observe,
        )
    return replace(result, adapted=adapted, exported=exported, pushed=push_once(last, config, registry))
