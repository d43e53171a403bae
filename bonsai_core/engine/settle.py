"""What a round ends with: the model repaired, then sliced, then compared with the dense one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import DenseTokens, token_kl
from bonsai_core.engine.job import Job
from bonsai_core.engine.perplexities import perplexity
from bonsai_core.engine.repairs import Repairs
from bonsai_core.engine.rounds import MeasuringData, Round
from bonsai_core.events import RoundFinished, Stage
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger


def settle(
    job: Job, round: Round, selection: Payload, keep_U: NDArray[np.bool_], repairs: Repairs, ledger: Ledger
) -> None:
    """Repair and slice the model as the round decided. Nothing else slices it.

    Args:
        selection: numbers of what the round decided, for observers.
        keep_U: the units it keeps, bool [U].
    """
    if job.methods.compensator.repairs:
        repairs.apply_permanently(keep_U)
    if job.subject.in_place and job.slices_between_rounds:
        job.subject.slice(keep_U)
    held_out_kl = _divergence(job, round, keep_U, ledger)
    after = None
    if job.config.eval_rounds and not round.last:  # after the last one it is the pruned model's
        ledger.begin(Stage.EVALUATE, "perplexity after the round", round.number)
        after = perplexity(job, keep_U, round.step("evaluate", job.evaluation_NT.size), ledger)
    if job.subject.in_place and round.last:
        job.subject.slice(keep_U)
        if job.methods.compensator.adds_bias:
            job.subject.complete_biases()
    sparsity, tau, removed = (selection[name] for name in ("sparsity", "kendall_tau", "units_removed"))
    ledger.notify(RoundFinished(round.number, sparsity, tau, removed, after, held_out_kl))


def _divergence(job: Job, round: Round, keep_U: NDArray[np.bool_], ledger: Ledger) -> float | None:
    """KL to the dense model on text that nothing is chosen by; None where there is none.

    The ledger also gets the KL on the sub-models' text; the gap between the two is overfitting.
    """
    held_out, measured = round.held_out, round.measuring
    if held_out is None:
        return None

    def measure() -> Payload:
        with job.subject.masked(keep_U):
            divergence = {"held_out": _kl(job, held_out)}
            if measured.dense is not None:
                divergence["measured"] = _kl(job, measured)
        return divergence

    step = round.step("divergence", job.plan.divergence_tokens)
    value: float | None = ledger.once(step, measure)["held_out"]
    return value


def _kl(job: Job, sample: MeasuringData) -> float | None:
    """Mean KL to the dense model in nats per token; None where it is not finite."""

    def per_token(logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        assert dense is not None
        return token_kl(logits, dense)

    mean = job.passes.token_mean(per_token, sample.data.windows_NT, sample.dense)
    return mean if math.isfinite(mean) else None
