"""A whole run: from a configuration to a smaller checkpoint and its report; and the same again after a kill."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.checkpoint import save_checkpoint
from bonsai_core.config import RunConfig
from bonsai_core.contracts.events import (
    Event,
    Journaled,
    RoundFinished,
    RunFinished,
    RunStarted,
    StageStarted,
    TokensDone,
    Warned,
)
from bonsai_core.engine.function_metric import ModelFunction, choice_of
from bonsai_core.engine.rounds import Rounds
from bonsai_core.engine.setup import Workspace, check_disk, open_workspace, versions
from bonsai_core.engine.shared import SharedMeasurements
from bonsai_core.errors import BonsaiError
from bonsai_core.model.latency import free_bytes, peak_bytes, side_by_side
from bonsai_core.model.load import load_model
from bonsai_core.model.passes import DenseSide, Passes
from bonsai_core.registry import Registry
from bonsai_core.report import build_report
from bonsai_core.rundir import Journal, RunDirectory
from bonsai_core.sources import NAMED, user_path

LATENCY_REPEATS = 7
LATENCY_HEADROOM = 1.5
DISK_MARGIN = 1.1

RUNTIMES = {
    "free": "transformers: with bonsai-prune installed, or anywhere with trust_remote_code=True",
    "uniform": "transformers without anything else, and every runtime that reads its family's stock checkpoints",
}


@dataclass(frozen=True)
class RunResult:
    """Where a finished run lies and what it found.

    Attributes:
        directory: the run directory.
        report: the contents of report.json.
    """

    directory: Path
    report: Mapping[str, Any]

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
    path = config.out or _free_name(config)
    RunDirectory(path).refuse_occupied()
    work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)), metric)
    check_disk(path, _checkpoint_bytes(work))
    directory = RunDirectory.create(path, config)
    with directory.lock():
        journal = directory.journal(on_append=_announcer(registry))
        try:
            journal.append("run", {**work.identity(), "versions": versions()})
            return _Run(work, directory, journal, registry.observe, shared).finish()
        finally:
            journal.close()


def resume(
    path: Path | str,
    *,
    registry: Registry | None = None,
    metric: ModelFunction | None = None,
    shared: SharedMeasurements | None = None,
) -> RunResult:
    """Continue a run that was interrupted; a finished one is returned as it is.

    Args:
        path: the run directory.
        registry, metric, shared: as for `run`; a run that was started with a function as metric needs it again.

    Raises:
        BonsaiError: there is no run, its configuration, text or model changed, or another process has it.
    """
    registry = registry or Registry()
    directory = RunDirectory.open(Path(path))
    config = directory.config()
    if metric is not None and choice_of(metric) != config.metric:
        raise BonsaiError(
            f"{path} measures sub-models by {config.metric.name!r}, not by {choice_of(metric).name!r}. Resume it with "
            f"what it was started with, or start a new run."
        )
    with directory.lock():
        journal = directory.journal(on_append=_announcer(registry))
        try:
            if "run" in journal:
                _refuse_changes("configuration", journal["run"]["config"], config.decisive())
            work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)), metric)
            identity = work.identity()
            started = journal.once("run", lambda: {**identity, "versions": versions()})
            for what in ("calibration", "evaluation", "model", "measured_on"):
                _refuse_changes(what, started.get(what, {}), identity.get(what, {}))
            if started["versions"] != versions():
                registry.observe(Warned(f"Started with {started['versions']}, resumed with {versions()}."))
            directory.remove_temporaries()
            return _Run(work, directory, journal, registry.observe, shared).finish()
        finally:
            journal.close()


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        work: the loaded workspace.
        seconds: rough time of the forward passes.
    """

    work: Workspace
    seconds: float


def dry_run(config: RunConfig, *, registry: Registry | None = None) -> DryRun:
    """Load and check everything, time one batch, and stop; nothing is written."""
    registry = registry or Registry()
    if config.out:
        RunDirectory(config.out).refuse_occupied()
    config = with_absolute_paths(config)
    work = open_workspace(config, registry, lambda text: registry.observe(Warned(text)))
    check_disk(config.out or Path(), _checkpoint_bytes(work))
    batch = work.prior_windows(1)[: config.batch_size]
    passes = _passes(work, registry.observe)
    passes.perplexity(batch)  # the first pass is slower than the rest
    start = time.perf_counter()
    passes.perplexity(batch)
    per_token = (time.perf_counter() - start) / batch.size
    return DryRun(work, per_token * work.plan.forward_tokens)


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
        self._passes = _passes(work, observe)

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
                RUNTIMES[config.shapes],
            )
        )
        if self._evaluate("dense") is None:
            raise BonsaiError(
                f"The dense model's own perplexity is not finite, so there is nothing to prune: check its weights, or "
                f"try --dtype float32 ({config.dtype} was asked for)."
            )
        alive_U = self._prune()
        work.subject.slice(alive_U)
        if work.methods.compensator.adds_bias:
            work.subject.complete_biases()
        self._evaluate("pruned")
        self._journal.once("peak", lambda: {"bytes": peak_bytes(work.subject.device)})
        self._save()
        if config.latency:
            self._observe(StageStarted("latency", 0, "latency, dense and pruned side by side"))
            self._journal.once("latency", self._latency)
        report = build_report(self._journal, work.subject.table, alive_U, work.dense_bytes, work.plan.forward_tokens)
        self._directory.write_report(report)
        self._observe(RunFinished(self._directory.path))
        return RunResult(self._directory.path, report)

    def _prune(self) -> NDArray[np.bool_]:
        """All rounds; returns the units kept. Rounds that the journal has finished are only told of."""
        work = self._work
        alive_U = work.subject.table.keep_all()
        numbers = range(1, len(work.plan.targets) + 1)
        unfinished = any(f"round-{number}/selection" not in self._journal for number in numbers)
        dense = self._dense() if unfinished else None
        rounds = Rounds(work, self._passes, self._directory, self._journal, dense, self._observe, self._shared)
        for number in numbers:
            before_U = alive_U
            finished = self._journal.get(f"round-{number}/selection")
            if finished is not None:
                alive_U = self._directory.load_arrays(number, "selection", finished["sha256"])["keep_U"]
                self._observe(TokensDone(work.plan.prune_tokens, replayed=True))
            else:
                alive_U = rounds.run(number, alive_U)
            if work.methods.compensator.repairs:
                rounds.repair(number, before_U, alive_U)
            event = self._journal[f"round-{number}/selection"]
            perplexity = self._evaluate_round(number, alive_U)
            self._observe(
                RoundFinished(number, event["sparsity"], event["kendall_tau"], event["units_removed"], perplexity)
            )
        return alive_U

    def _evaluate_round(self, number: int, alive_U: NDArray[np.bool_]) -> float | None:
        """Perplexity after a round, where it was asked for; that after the last one is the pruned model's anyway."""
        if not self._work.config.eval_rounds or number == len(self._work.plan.targets):
            return None
        self._observe(StageStarted("evaluate", number, "perplexity after the round"))
        key = f"round-{number}/evaluate"
        if self._work.slices_between_rounds and key not in self._journal:
            self._work.subject.slice(alive_U)
        with self._work.subject.masked(alive_U):
            return self._perplexity(key, self._passes.perplexity)

    def _dense(self) -> list[DenseSide] | None:
        """The dense model's side of the metric, per draw of calibration data, computed before anything is sliced."""
        work = self._work
        if not work.methods.compared:
            return None
        self._observe(StageStarted("dense", 0, "the dense model on the calibration text"))
        start = time.perf_counter()
        sides = [self._dense_side(data.windows_NT) for data in work.data]
        if "dense" not in self._journal:  # only the time it took; what is found is needed in memory anyway
            self._journal.append("dense", {}, time.perf_counter() - start)
        return sides

    def _dense_side(self, windows_NT: NDArray[np.int64]) -> DenseSide:
        if self._shared is None:
            return self._passes.dense_reference(windows_NT)
        once = self._shared.once(
            {**self._work.dense_origin, "dense side": windows_NT},
            lambda: {
                name: tensor.cpu().numpy()
                for name, tensor in self._passes.dense_reference(windows_NT)._asdict().items()
            },
        )
        if once.found:
            self._observe(TokensDone(windows_NT.size, replayed=True))
        device = self._work.subject.device
        return DenseSide(**{name: torch.from_numpy(array).to(device) for name, array in once.arrays.items()})

    def _evaluate(self, which: str) -> float | None:
        """Perplexity of the dense or the pruned model; None where it is not finite."""
        self._observe(StageStarted("evaluate", 0, f"perplexity of the {which} model"))
        dense = which == "dense"
        return self._perplexity(f"evaluate/{which}", self._dense_perplexity if dense else self._passes.perplexity)

    def _dense_perplexity(self, windows_NT: NDArray[np.int64]) -> float:
        if self._shared is None:
            return self._passes.perplexity(windows_NT)
        once = self._shared.once(
            {**self._work.dense_origin, "perplexity": windows_NT},
            lambda: {"perplexity": np.array([self._passes.perplexity(windows_NT)])},
        )
        if once.found:
            self._observe(TokensDone(windows_NT.size, replayed=True))
        return float(once.arrays["perplexity"][0])

    def _perplexity(self, key: str, compute: Callable[[NDArray[np.int64]], float]) -> float | None:
        """Perplexity of the model as it stands, from the journal if it is there; None where it is not finite."""
        windows_NT = self._work.evaluation_NT
        if key in self._journal:
            self._observe(TokensDone(windows_NT.size, replayed=True))

        def measure() -> dict[str, Any]:
            perplexity = compute(windows_NT)
            return {
                "perplexity": perplexity if math.isfinite(perplexity) else None,
                "windows": len(windows_NT),
                "sequence_length": windows_NT.shape[1],
            }

        found: float | None = self._journal.once(key, measure)["perplexity"]
        return found

    def _save(self) -> None:
        self._observe(StageStarted("save", 0, "checkpoint"))
        work, config = self._work, self._work.config
        saved = self._journal.get("save")
        # Compared with the journal, because the checkpoint may have been deleted, or cut short by a power cut.
        if saved is not None and saved["bytes"] == _weight_bytes(self._directory.model_path):
            return
        keep_U = work.subject.present_U
        provenance = {
            "base_model": config.model,
            "config": config.model_dump(mode="json", exclude={"out", "device"}),
            "sparsity": work.subject.table.sparsity(keep_U),
            "versions": versions(),
            "kept_units": {site.name: np.flatnonzero(keep_U[site.units]).tolist() for site in work.subject.table},
        }

        def save() -> dict[str, Any]:
            with self._directory.writing(f"the checkpoint {self._directory.model_path}"):
                save_checkpoint(
                    work.subject.model,
                    work.tokenizer,
                    self._directory.model_path,
                    per_layer=work.subject.layer_sizes(),
                    shapes=config.shapes,
                    provenance=provenance,
                    added_biases=work.subject.output_paths() if work.methods.compensator.adds_bias else (),
                )
            parameters = sum(p.numel() for p in work.subject.model.parameters())
            return {"bytes": _weight_bytes(self._directory.model_path), "parameters": parameters}

        if saved is None:
            self._journal.once("save", save)
        else:
            save()

    def _latency(self) -> dict[str, Any]:
        """Dense and pruned taking turns; left out where there is no room for both."""
        work, config = self._work, self._work.config
        if free_bytes(work.subject.device) < LATENCY_HEADROOM * work.dense_bytes:
            return {"skipped": "not enough free memory to hold the dense model beside the pruned one"}
        dense = load_model(
            work.parent.source,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )
        num_tokens = work.evaluation_NT.shape[1]
        dense_s, pruned_s = side_by_side(dense, work.subject.model, num_tokens=num_tokens, repeats=LATENCY_REPEATS)
        return {"dense_s": dense_s, "pruned_s": pruned_s, "tokens": num_tokens, "repeats": LATENCY_REPEATS}


def _passes(work: Workspace, observe: Callable[[Event], None]) -> Passes:
    return Passes(
        work.subject.model,
        work.config.batch_size,
        on_warning=lambda text: observe(Warned(text)),
        on_tokens=lambda tokens: observe(TokensDone(tokens)),
    )


def _announcer(registry: Registry) -> Callable[[str, int], None]:
    return lambda key, count: registry.observe(Journaled(key, count))


def _refuse_changes(what: str, before: Mapping[str, Any] | str, now: Mapping[str, Any] | str) -> None:
    if before == now:
        return
    if isinstance(before, str) or isinstance(now, str):
        changes = "its weights are not those the run started with"
    else:
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names)
    raise BonsaiError(
        f"The {what} of this run has changed, so it cannot be resumed: {changes}. "
        f"Put it back, or start a new run with another --out."
    )


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same, with files and folders named so that a resume from elsewhere finds them."""
    names = {name: getattr(config, name) for name in ("model", "dataset", "eval_dataset", "metric_dataset")}
    found = {name: user_path(value) for name, value in names.items() if value not in (None, "demo", *NAMED)}
    return config.model_copy(update={name: str(path.resolve()) for name, path in found.items() if path.exists()})


def _free_name(config: RunConfig) -> Path:
    """runs/<model>-<percent>, with a number behind it where that is taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model).name).strip(".-") or "model"
    base = Path("runs") / f"{stem}-{config.sparsity * 100:g}"
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
    return next(path for path in candidates if not path.exists())


def _checkpoint_bytes(work: Workspace) -> int:
    table = work.subject.table
    kept = 1 - work.config.sparsity * table.decoder_params / table.total_params
    return int(DISK_MARGIN * kept * work.dense_bytes)


def _weight_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
