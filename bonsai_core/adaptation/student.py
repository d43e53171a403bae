"""The student of an adaptation: loaded, trained, and merged into an ordinary model again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bonsai_core.adaptation.curriculum import TRAINING_COST
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.measure import check_weights, passes_over, perplexity
from bonsai_core.adaptation.methods import causal_lm, merge, prepare
from bonsai_core.adaptation.objective import Objective
from bonsai_core.adaptation.sharding import is_sharded, shard, whole, with_weights
from bonsai_core.adaptation.shared import SharedLedger
from bonsai_core.adaptation.state import trained
from bonsai_core.adaptation.teacher import StoredTeacher
from bonsai_core.adaptation.training import TrainingStep, train
from bonsai_core.events import CurvePoint, Stage, StepDone, TokensDone
from bonsai_core.model.forward.latency import peak_bytes
from bonsai_core.model.loading.load import load_checked
from bonsai_core.model.loading.saved import measured_loss
from bonsai_core.model.storage.devices import Placement, find_device
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.model.structure.declared import decoder_layers
from bonsai_core.rundir.ledger import Ledger, Step


def trained_student(
    job: AdaptJob, teacher: StoredTeacher | Any | None, directory: AdaptDirectory, ledger: SharedLedger
) -> tuple[Any, torch.dtype]:
    """The pruned causal LM, trained by all ranks from where the last process stopped; and the type it came in.

    Raises:
        BonsaiError: the model cannot be loaded, has changed, or cannot be trained.
    """
    config, ranks = job.config, ledger.ranks
    sharded = config.shard and ranks.count > 1
    model = ranks.in_turn(lambda: _loaded(job, ledger.warn))
    check_weights("model", model, ledger)
    dtype = model.dtype
    if not sharded and (config.method == "full" or dtype != torch.bfloat16 or job.precision != "bfloat16"):
        model.float()  # small updates would be lost in half precision
    student = ranks.in_turn(lambda: prepare(model, job.family, config))
    objective = Objective(student, teacher, job.layers, config)
    if sharded:
        assert job.family is not None  # checked by `plan_curriculum`
        shard(objective, list(decoder_layers(model, job.family)), ranks, mixed=job.precision == "bfloat16")
    _add_curve_point(job, 0, objective, ledger)
    ledger.begin(Stage.TRAIN, "training")
    count = sum(parameter.numel() for parameter in trained(student).values())
    ledger.once(Step("trained"), lambda: {"parameters": count})
    train(
        objective,
        job.schedule,
        config,
        directory.state_path,
        ranks,
        job.family is None,  # those of declared ones use all that they have
        lambda steps: _skip_steps(job, steps, ledger),
        lambda step: _count_step(job, step, objective, ledger),
    )
    return _gathered(job, student, ledger) if sharded else student, dtype


def _loaded(job: AdaptJob, warn: Callable[[str], None]) -> Any:
    source, placement = job.provenance.source, Placement(device=job.config.device)
    return load_checked(source, job.model_config, placement, trust_remote_code=job.config.trust_remote_code, warn=warn)


def _gathered(job: AdaptJob, student: nn.Module, ledger: SharedLedger) -> Any | None:
    """The student with all of its weights, on the first rank: loaded once more, and given those that were trained."""
    free_cache()  # of the optimiser
    models: list[Any] = []
    ledger.ranks.share(lambda: models.extend([_loaded(job, lambda known: None)]))
    targets = [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        for name, parameter in trained(student).items():
            values = whole(parameter)
            for target in targets:
                target[name].copy_(values)
    return models[0] if models else None


def adapted_student(job: AdaptJob, student: Any, dtype: torch.dtype, ledger: Ledger) -> Any:
    """The adapted causal LM, measured."""
    model = merge(student)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.eval()
    ledger.begin(Stage.EVALUATE, "perplexity of the adapted model")
    perplexity(job, "adapted", passes_over(model, ledger), ledger.once)
    ledger.once(Step("loss"), lambda: measured_loss(model, job.evaluation_NL[0]))
    ledger.once(Step("peak"), lambda: {"bytes": peak_bytes(find_device(job.config.device))})
    return model


def _skip_steps(job: AdaptJob, steps: int, ledger: SharedLedger) -> None:
    """Count the training and the points of the curve up to the saved state."""
    points = sum(0 < step <= steps for step in job.curve_steps)
    ledger.skip(TRAINING_COST * job.tokens * steps // job.schedule.steps)
    ledger.skip(points * job.evaluation_NL.size)


def _count_step(job: AdaptJob, step: TrainingStep, objective: Objective, ledger: SharedLedger) -> None:
    """Have the first rank journal an optimiser step; measure a point of the curve where one is due."""
    ledger.ranks.share(lambda: _record_step(job, step, ledger.of_first))
    if step.number in job.curve_steps:
        _add_curve_point(job, step.number, objective, ledger)
        objective.train()


def _record_step(job: AdaptJob, step: TrainingStep, ledger: Ledger) -> None:
    ledger.record(Step(f"step-{step.number}"), {**step.losses, "learning_rate": step.rate}, step.seconds)
    ledger.notify(StepDone(step.number, job.schedule.steps, step.losses))
    ledger.notify(TokensDone(TRAINING_COST * job.tokens // job.schedule.steps))


def _add_curve_point(job: AdaptJob, number: int, objective: Objective, ledger: SharedLedger) -> None:
    objective.eval()
    student = causal_lm(objective.model)
    if is_sharded(objective):
        # A window at a time: no rank can repeat a pass without the others, should its memory be too small for several.
        passes = passes_over(student, ledger, job.evaluation_NL.shape[1])
        value = perplexity(
            job,
            str(number),
            passes,
            lambda step, compute: ledger.together(step, lambda: with_weights(objective, compute)),
        )
    else:
        value = perplexity(job, str(number), passes_over(student, ledger), ledger.once)
    ledger.notify(CurvePoint(number, job.schedule.steps, value))
