"""From an open job to a pruned checkpoint and its report: everything that the ledger does not hold yet."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.engine.checkpoint import latencies, verify_checkpoint, write_checkpoint
from bonsai_core.engine.job import Job
from bonsai_core.engine.perplexities import dense_perplexity, perplexity
from bonsai_core.engine.prune import prune
from bonsai_core.engine.reached import outcome
from bonsai_core.engine.runtimes import runtimes
from bonsai_core.engine.sizes import choose_sizes
from bonsai_core.engine.work import planned_stages
from bonsai_core.errors import BonsaiError
from bonsai_core.events import RunFinished, RunStarted, Stage
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.loading.saved import measured_loss
from bonsai_core.model.loading.saving import is_saved, save_once, verify_once
from bonsai_core.rundir.arrays import load_array
from bonsai_core.rundir.ledger import Ledger, Step
from bonsai_core.rundir.report import build_report


def finish(job: Job, ledger: Ledger) -> Mapping[str, Any]:
    """Prune, save and verify; what is finished already is not done again.

    Returns:
        The report.

    Raises:
        BonsaiError: the dense model is broken, the disk is full, or the checkpoint is not what was measured.
    """
    config, plan, subject = job.config, job.plan, job.subject
    if job.prices is not None:
        ledger.record(Step("prices"), job.prices, job.prices["elapsed_s"])
    stages = planned_stages(job)
    ledger.once(Step("stages"), lambda: {"stages": [asdict(stage) for stage in stages]})
    ledger.notify(
        RunStarted(
            ledger.directory.path,
            config.model,
            len(plan.targets),
            config.submodels if job.methods.needs_submodels else 0,
            job.budget.fraction,
            plan.forward_tokens,
            runtimes(config, job.parent.config),
            job.budget.goal,
            stages,
        )
    )
    if _is_finished(job, ledger):
        ledger.skip(plan.forward_tokens)
        return _report(job, _last_selection(job, ledger), ledger)
    choose_sizes(job, ledger)
    ledger.begin(Stage.EVALUATE, "perplexity of the dense model")
    if dense_perplexity(job, ledger) is None:
        raise BonsaiError(
            f"The dense model's own perplexity is not finite, so there is nothing to prune: check its weights, or "
            f"try --dtype float32 ({config.dtype} was asked for), in a new run with another --out."
        )
    keep_U = prune(job, ledger)
    ledger.begin(Stage.EVALUATE, "perplexity of the pruned model")
    perplexity(job, keep_U, Step("evaluate/pruned", tokens=job.evaluation_NT.size), ledger)
    with subject.masked(keep_U):
        loss = ledger.once(Step("loss"), lambda: measured_loss(subject.model, job.evaluation_NT[0]))["loss"]
    ledger.once(Step("peak"), lambda: {"bytes": peak_bytes(subject.device)})
    written = save_once(ledger, lambda path: write_checkpoint(job, keep_U, path))
    if config.latency:
        ledger.begin(Stage.LATENCY, "latency, dense and pruned side by side")
        ledger.once(Step("latency"), lambda: latencies(job))
    if job.budget.target is not None:
        ledger.begin(Stage.LATENCY, f"the budget: {job.budget.target.words}")
        ledger.once(Step("budget"), lambda: outcome(job, keep_U, ledger.journal["save"]))
    verify_once(ledger, lambda: verify_checkpoint(job, ledger.directory.model_path, loss), again=written)
    return _report(job, keep_U, ledger)


def _is_finished(job: Job, ledger: Ledger) -> bool:
    """Whether the ledger has everything and the checkpoint is as it was saved."""
    measured = Step("latency") in ledger or not job.config.latency
    measured &= Step("budget") in ledger or job.budget.target is None
    return measured and Step("verify") in ledger and is_saved(ledger)


def _last_selection(job: Job, ledger: Ledger) -> NDArray[np.bool_]:
    """The units kept after the last round, which is finished."""
    number = len(job.plan.targets)
    sha256 = ledger.journal[Step("selection", number).key]["sha256"]
    path = ledger.directory.array_path(number, "selection")
    return load_array(path, "keep_U", sha256, kind=np.bool_, length=len(job.table))


def _report(job: Job, keep_U: NDArray[np.bool_], ledger: Ledger) -> Mapping[str, Any]:
    directory = ledger.directory
    report = build_report(ledger.journal, job.table, keep_U, job.dense_bytes, job.plan.forward_tokens)
    directory.write_report(report)
    for number in range(1, len(job.plan.targets) + 1):
        shutil.rmtree(directory.tensor_path(number, "repair"), ignore_errors=True)  # it is in the checkpoint
    ledger.notify(RunFinished(directory.path))
    return report
