"""From an open adaptation to its checkpoint and report: everything that the ledger does not hold yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bonsai_core.adaptation.checkpoint import save, verify
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.distillation import prepare_teacher
from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.ranks import Ranks
from bonsai_core.adaptation.report import build_adapt_report, draw_curve
from bonsai_core.adaptation.shared import SharedLedger
from bonsai_core.adaptation.student import adapted_student, trained_student
from bonsai_core.events import AdaptationFinished, AdaptationStarted, PlannedStage, Stage
from bonsai_core.model.loading.saving import is_saved
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.rundir import refuse_changes
from bonsai_core.rundir.ledger import Ledger, Step


def finish(job: AdaptJob, directory: AdaptDirectory, ledger: Ledger, ranks: Ranks) -> Mapping[str, Any]:
    """Do what is left to do; returns the report. The other ranks `follow` meanwhile.

    Raises:
        BonsaiError: something is not as it was when the adaptation began, cannot be written, or fails.
    """
    steps, config, stages = job.schedule.steps, job.config, tuple(_planned_stages(job))
    ledger.notify(
        AdaptationStarted(
            directory.path, config.model, config.method, job.teacher, steps, job.tokens, job.forward_tokens, stages
        )
    )
    _check_identity(job, ledger, ranks)
    ledger.once(Step("stages"), lambda: {"stages": [asdict(stage) for stage in stages]})
    saved = ranks.share(lambda: is_saved(ledger))
    if saved:
        ledger.skip(job.forward_tokens)
    else:
        # In a function of its own, so that its models leave memory.
        _train_and_save(job, directory, SharedLedger(ranks, ledger))
    verify(job, ledger, again=not saved)
    report = build_adapt_report(ledger.journal, job)
    directory.write_report(report)
    with directory.writing(f"the picture {directory.curve_path}"):
        draw_curve(report, directory.curve_path)
    shutil.rmtree(directory.teacher_path, ignore_errors=True)
    directory.state_path.unlink(missing_ok=True)
    ledger.notify(AdaptationFinished(directory.path))
    return report


def _planned_stages(job: AdaptJob) -> Iterator[PlannedStage]:
    """The stages of an adaptation in order; its first perplexity belongs to that of the teacher."""
    evaluation, teacher = int(job.evaluation_NL.size), job.teacher_tokens
    if teacher:
        teacher += evaluation
        yield PlannedStage(Stage.TEACHER, 0, teacher, teacher, 0, "evaluate/0")
    training = job.forward_tokens - job.teacher_tokens - 2 * evaluation
    yield PlannedStage(Stage.TRAIN, 0, training, training, 0, f"evaluate/{job.schedule.steps}")
    yield PlannedStage(Stage.EVALUATE, 0, evaluation, evaluation, 0, "loss")
    yield PlannedStage(Stage.SAVE, 0, 0, 0, 0, "save")
    yield PlannedStage(Stage.VERIFY, 0, evaluation, 0, 0, "verify")


def follow(job: AdaptJob, directory: AdaptDirectory, ranks: Ranks) -> None:
    """What the other ranks do of an adaptation that the first one finishes.

    Raises:
        BonsaiError: something is not as it is on the first rank, or another rank has failed.
    """
    theirs = ranks.share(dict[str, Any])
    for what, ours in _identity(job).items():
        refuse_changes(what, theirs[what], ours)
    if not ranks.share(bool):
        ledger = SharedLedger(ranks)
        trained_student(job, prepare_teacher(job, directory, ledger), directory, ledger)
        free_cache()  # and let go of the teacher's files, which the first rank removes


def _check_identity(job: AdaptJob, ledger: Ledger, ranks: Ranks) -> None:
    """Refuse to go on with other settings, texts or a teacher than the adaptation was begun with."""
    identity = _identity(job)
    ledger.check_identity(Step("adapt"), identity, identity)
    ranks.share(lambda: identity)


def _identity(job: AdaptJob) -> dict[str, Any]:
    return {
        "text": job.texts[0].describe(),
        "evaluation": job.texts[1].describe(),
        "teacher": {"model": job.teacher},
        "passes": {"precision": job.precision},
        "config": job.config.decisive(),
    }


def _train_and_save(job: AdaptJob, directory: AdaptDirectory, ledger: SharedLedger) -> None:
    student, dtype = trained_student(job, prepare_teacher(job, directory, ledger), directory, ledger)
    save(job, adapted_student(job, student, dtype, ledger.of_first), ledger.of_first)
