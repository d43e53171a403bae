"""The student of an adaptation: loaded, trained, and merged into an ordinary model again."""

from __future__ import annotations

from typing import Any

import torch

from bonsai_core.adaptation.curriculum import TRAINING_COST
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.measure import check_weights, passes_over, perplexity
from bonsai_core.adaptation.methods import causal_lm, merge, prepare
from bonsai_core.adaptation.shared import SharedLedger
from bonsai_core.adaptation.state import trained
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.adaptation.training import TrainingStep, train
from bonsai_core.events import CurvePoint, Stage, StepDone, TokensDone
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.loading.load import load_checked
from bonsai_core.model.loading.saved import measured_loss
from bonsai_core.model.storage.devices import Placement, find_device
from bonsai_core.rundir.ledger import Ledger, Step


def trained_student(
    job: AdaptJob, teacher: StoredTeacher | Any | None, directory: AdaptDirectory, ledger: SharedLedger
) -> tuple[Any, torch.dtype]:
    """The pruned causal LM, trained by all ranks from where the last process stopped; and the type it came in.

    Raises:
        BonsaiError: the model cannot be loaded, has changed, or cannot be trained.
    """
    config, source = job.config, job.provenance.source
    placement, trusted = Placement(device=config.device), config.trust_remote_code
    model = ledger.ranks.in_turn(
        lambda: load_checked(source, job.model_config, placement, trust_remote_code=trusted, warn=ledger.warn)
    )
    check_weights("model", model, ledger)
    dtype = model.dtype
    if config.method == "full" or dtype != torch.bfloat16 or job.precision != "bfloat16":
        model.float()  # small updates would be lost in half precision
    student = ledger.ranks.in_turn(lambda: prepare(model, job.family, config))
    _add_curve_point(job, 0, student, ledger)
    ledger.begin(Stage.TRAIN, "training")
    count = sum(parameter.numel() for parameter in trained(student).values())
    ledger.once(Step("trained"), lambda: {"parameters": count})
    train(
        student,
        job.schedule,
        teacher,
        job.layers,
        config,
        directory.state_path,
        ledger.ranks,
        job.family is None,  # those of declared ones use all that they have
        lambda steps: _skip_steps(job, steps, ledger),
        lambda step: _count_step(job, step, student, ledger.of_first),
    )
    return student, dtype


def adapted_student(job: AdaptJob, student: Any, dtype: torch.dtype, ledger: Ledger) -> Any:
    """The adapted causal LM, measured."""
    model = merge(student)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.eval()
    ledger.begin(Stage.EVALUATE, "perplexity of the adapted model")
    perplexity(job, "adapted", passes_over(model, ledger), ledger)
    ledger.once(Step("loss"), lambda: measured_loss(model, job.evaluation_NL[0]))
    ledger.once(Step("peak"), lambda: {"bytes": peak_bytes(find_device(job.config.device))})
    return model


def _skip_steps(job: AdaptJob, steps: int, ledger: SharedLedger) -> None:
    """Count the training and the points of the curve up to the saved state."""
    points = sum(0 < step <= steps for step in job.curve_steps)
    ledger.skip(TRAINING_COST * job.tokens * steps // job.schedule.steps)
    ledger.skip(points * job.evaluation_NL.size)


def _count_step(job: AdaptJob, step: TrainingStep, student: Any, ledger: Ledger) -> None:
    """Journal an optimiser step and notify observers; measure a point of the curve where one is due."""
    ledger.record(Step(f"step-{step.number}"), {**step.losses, "learning_rate": step.rate}, step.seconds)
    ledger.notify(StepDone(step.number, job.schedule.steps, step.losses))
    ledger.notify(TokensDone(TRAINING_COST * job.tokens // job.schedule.steps))
    if step.number in job.curve_steps:
        _add_curve_point(job, step.number, student, ledger)
        student.train()


def _add_curve_point(job: AdaptJob, number: int, student: Any, ledger: Ledger | SharedLedger) -> None:
    student.eval()
    value = perplexity(job, str(number), passes_over(causal_lm(student), ledger), ledger)
    ledger.notify(CurvePoint(number, job.schedule.steps, value))
