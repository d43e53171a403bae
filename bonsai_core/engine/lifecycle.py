"""A whole run: from a configuration to a smaller checkpoint and its report; and the same again after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.adaptation.lifecycle import AdaptResult
from bonsai_core.checkpoint import weight_bytes
from bonsai_core.config import RunConfig
from bonsai_core.engine.adaptation import check_ahead, follow_up, planned_adaptation
from bonsai_core.engine.evaluations import DenseSides, Evaluations
from bonsai_core.engine.finish import latencies, verify_checkpoint, write_checkpoint
from bonsai_core.engine.function_metric import ModelFunction, choice_of
from bonsai_core.engine.rounds import Rounds
from bonsai_core.engine.runtimes import runtimes
from bonsai_core.engine.setup import Workspace, disk_bytes, open_workspace, passes_over, with_absolute_paths
from bonsai_core.errors import BonsaiError
from bonsai_core.events import (
    Event,
    Journaled,
    RoundFinished,
    RunFinished,
    RunStarted,
    Stage,
    StageStarted,
    TokensDone,
    Warned,
)
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.loading.saved import measured_loss
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import Journal, RunDirectory, check_disk, free_path, refuse_changes, refuse_code
from bonsai_core.rundir.measurement_cache import SharedMeasurements
from bonsai_core.rundir.report import build_report
from bonsai_core.rundir.versions import versions


@dataclass(frozen=True)
class RunResult:
    """Where a finished run lies and what it found.

    Attributes:
        directory: the run directory.
        report: the contents of report.json.
        adapted: of the adaptation that followed, if one was configured.
    """

    directory: Path
    report: Mapping[str, Any]
    adapted: AdaptResult | None = None

    @property
    def model_path(self) -> Path:
        """The pruned checkpoint."""
        return RunDirectory(self.directory).model_path


def run(
    config: RunConfig,
    *,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    shared: SharedMeasurements | None = None,
) -> RunResult:
    """Prune a model as configured.

    Args:
        config: what to do.
        registry: plugins and observers; None loads all installed ones.
        metric: `function(model, tokenizer)`, higher is better, to measure sub-models with instead of the configured
            metric. It may run the model as often as it likes, and must leave it as it is.
        shared: where several runs keep what they measure of the dense model.

    Raises:
        BonsaiError: something is wrong that the user can mend; the message says what.
    """
    registry = registry or Registry()
    config = with_absolute_paths(config)
    if metric is not None:
        config = config.model_copy(update={"metric": choice_of(metric)})
    path = config.out or free_path(Path("runs"), f"{Path(config.model).name}-{config.sparsity * 100:g}")
    RunDirectory(path).refuse_occupied()
    plan = planned_adaptation(config, registry, path)
    if plan:
        check_ahead(plan, config, registry)
    work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)), metric)
    check_disk(path, disk_bytes(work))
    with RunDirectory.created(path, config) as directory:
        journal = directory.journal(on_append=_announcer(registry))
        try:
            journal.append("run", {**work.identity(), "versions": versions()})
            result = _Run(work, directory, journal, registry.observe, shared).finish()
        finally:
            journal.close()
    del work  # its weights make room
    return replace(result, adapted=follow_up(plan, registry)) if plan else result


def resume(
    path: Path | str,
    *,
    trust_remote_code: bool = False,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    shared: SharedMeasurements | None = None,
) -> RunResult:
    """Continue a run that was interrupted; a finished one is returned as it is.

    Args:
        path: the run directory.
        trust_remote_code: allow modeling code that comes with the model, where the run was started so.
        registry, metric, shared: as for `run`; a run that was started with a function as metric needs it again.

    Raises:
        BonsaiError: there is no run, its configuration, text or model changed, or another process has it.
    """
    registry = registry or Registry()
    directory = RunDirectory.open(Path(path))
    config = directory.config()
    plan = planned_adaptation(config, registry, directory.path)
    wanted = config.trust_remote_code or (plan is not None and plan.trust_remote_code)
    refuse_code(path, wanted=wanted, trusted=trust_remote_code)
    if metric is not None and choice_of(metric) != config.metric:
        raise BonsaiError(
            f"{path} measures sub-models by {config.metric.name!r}, not by {choice_of(metric).name!r}. Resume it with "
            f"what it was started with, or start a new run."
        )
    with directory.lock():
        journal = directory.journal(on_append=_announcer(registry))
        try:
            if "run" in journal:
                before = RunConfig.from_mapping(
                    journal["run"]["config"], "the journal"
                ).decisive()  # with newer settings
                refuse_changes("configuration", before, config.decisive())
            work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)), metric)
            identity = work.identity()
            started = journal.once("run", lambda: {**identity, "versions": versions()})
            for what in ("calibration", "evaluation", "model", "measured_on"):
                refuse_changes(what, started.get(what, {}), identity.get(what, {}))
            if started["versions"] != versions():
                registry.observe(Warned(f"Started with {started['versions']}, resumed with {versions()}."))
            directory.remove_temporaries()
            result = _Run(work, directory, journal, registry.observe, shared).finish()
        finally:
            journal.close()
    del work  # its weights make room
    return replace(result, adapted=follow_up(plan, registry)) if plan else result


class _Run:
    def __init__(
        self,
        work: Workspace,
        directory: RunDirectory,
        journal: Journal,
        observe: Callable[[Event], None],
        shared: SharedMeasurements | None,
    ) -> None:
        self._work = work
        self._directory = directory
        self._journal = journal
        self._observe = observe
        self._shared = shared
        self._passes = passes_over(work, observe)
        self._evaluations = Evaluations(work, self._passes, journal, observe, shared)

    def finish(self) -> RunResult:
        """Do what the journal does not hold yet."""
        work, config = self._work, self._work.config
        self._observe(
            RunStarted(
                self._directory.path,
                config.model,
                len(work.plan.targets),
                config.submodels if work.methods.measured else 0,
                config.sparsity,
                work.plan.forward_tokens,
                runtimes(config, work.parent.config),
            )
        )
        if self._is_done():
            self._observe(TokensDone(work.plan.forward_tokens, replayed=True))
            return self._report(self._kept_after(len(work.plan.targets)))
        if self._evaluations.dense() is None:
            raise BonsaiError(
                f"The dense model's own perplexity is not finite, so there is nothing to prune: check its weights, or "
                f"try --dtype float32 ({config.dtype} was asked for), in a new run with another --out."
            )
        alive_U = self._prune()
        if work.subject.in_place:
            work.subject.slice(alive_U)
            if work.methods.compensator.adds_bias:
                work.subject.complete_biases()
        with work.subject.masked(alive_U):
            self._evaluations.pruned()
            loss = self._journal.once("loss", lambda: measured_loss(work.subject.model, work.evaluation_NT[0]))["loss"]
        self._journal.once("peak", lambda: {"bytes": peak_bytes(work.subject.device)})
        written = self._save(alive_U)
        if config.latency:
            self._observe(StageStarted(Stage.LATENCY, 0, "latency, dense and pruned side by side"))
            self._journal.once("latency", lambda: latencies(work))
        self._observe(StageStarted(Stage.VERIFY, 0, "the checkpoint, loaded again"))
        path = self._directory.model_path
        self._journal.once("verify", lambda: verify_checkpoint(work, path, loss), again=written)
        return self._report(alive_U)

    def _is_done(self) -> bool:
        """Whether everything is in the journal and the checkpoint is as it was saved."""
        measured = not self._work.config.latency or "latency" in self._journal
        return measured and "verify" in self._journal and self._checkpoint_is_whole()

    def _checkpoint_is_whole(self) -> bool:
        # Compared with the journal, because the checkpoint may have been deleted, or cut short by a power cut.
        saved = self._journal.get("save")
        return saved is not None and saved["bytes"] == weight_bytes(self._directory.model_path)

    def _kept_after(self, number: int) -> NDArray[np.bool_]:
        """The units kept after a round that the journal has finished."""
        sha256 = self._journal[f"round-{number}/selection"]["sha256"]
        length = len(self._work.subject.table)
        return self._directory.load_array(number, "selection", "keep_U", sha256, kind=np.bool_, length=length)

    def _report(self, alive_U: NDArray[np.bool_]) -> RunResult:
        work = self._work
        report = build_report(self._journal, work.subject.table, alive_U, work.dense_bytes, work.plan.forward_tokens)
        self._directory.write_report(report)
        for number in range(1, len(work.plan.targets) + 1):
            shutil.rmtree(self._directory.tensor_path(number, "repair"), ignore_errors=True)  # it is in the checkpoint
        self._observe(RunFinished(self._directory.path))
        return RunResult(self._directory.path, report)

    def _prune(self) -> NDArray[np.bool_]:
        """All rounds; returns the units kept. Rounds that the journal has finished are only told of."""
        work = self._work
        alive_U = work.subject.table.keep_all()
        numbers = range(1, len(work.plan.targets) + 1)
        last = "divergence" if len(work.calibration.held_out_NT) else "selection"
        unfinished = any(f"round-{number}/{last}" not in self._journal for number in numbers)
        dense = self._evaluations.dense_sides() if unfinished else DenseSides((), (), None)
        if not unfinished:
            self._observe(TokensDone(work.plan.dense_tokens, replayed=True))
        rounds = Rounds(work, self._passes, self._directory, self._journal, dense, self._observe, self._shared)
        for number in numbers:
            before_U = alive_U
            if f"round-{number}/selection" in self._journal:
                alive_U = self._kept_after(number)
                again = rounds.repair_tokens(number)  # those are told of when they are done
                self._observe(TokensDone(work.plan.prune_tokens - again, replayed=True))
            else:
                alive_U = rounds.run(number, alive_U)
            if work.methods.compensator.repairs:
                rounds.repair(number, before_U, alive_U)
            event = self._journal[f"round-{number}/selection"]
            divergence = self._evaluations.divergence(number, alive_U, dense)
            perplexity = self._evaluations.after_round(number, alive_U)
            self._observe(
                RoundFinished(
                    number, event["sparsity"], event["kendall_tau"], event["units_removed"], perplexity, divergence
                )
            )
        rounds.clear()
        return alive_U

    def _save(self, keep_U: NDArray[np.bool_]) -> bool:
        """Write the checkpoint; whether it had to be written."""
        self._observe(StageStarted(Stage.SAVE, 0, "checkpoint"))
        if self._checkpoint_is_whole():
            return False

        def save() -> dict[str, Any]:
            path = self._directory.model_path
            with self._directory.writing(f"the checkpoint {path}"):
                parameters = write_checkpoint(self._work, keep_U, path)
            return {"bytes": weight_bytes(path), "parameters": parameters}

        self._journal.once("save", save, again=True)
        return True


def _announcer(registry: Registry) -> Callable[[str, int], None]:
    return lambda key, count: registry.observe(Journaled(key, count))
