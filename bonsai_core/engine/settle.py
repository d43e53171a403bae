"""What a round ends with: the model repaired layer by layer, compared with the dense one, and sliced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import DenseTokens, token_kl
from bonsai_core.engine.job import Job
from bonsai_core.engine.layer_repairs import LayerRepairs
from bonsai_core.engine.perplexities import perplexity
from bonsai_core.engine.round_statistics import RoundStatistics
from bonsai_core.engine.rounds import Round
from bonsai_core.engine.stored_repairs import apply_repairs
from bonsai_core.engine.workers import Workers
from bonsai_core.events import RoundFinished, Stage
from bonsai_core.model.forward.lanes import LayerLanes
from bonsai_core.model.forward.lockstep import Stream
from bonsai_core.model.forward.probe import MeasuringData
from bonsai_core.model.forward.unrepaired import UnrepairedLayers
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.rundir.divergence import describe_narrowness
from bonsai_core.rundir.files import atomic_folder
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger

NOT_STORED = ""
"""In place of a digest: the repairs are too large, so a resumed run computes them again."""


def settle(
    job: Job,
    round: Round,
    selection: Payload,
    alive_U: NDArray[np.bool_],
    after: RoundStatistics,
    workers: Workers,
    ledger: Ledger,
) -> None:
    """Repair and slice the model as the round decided. Nothing else slices it.

    Args:
        selection: numbers of what the round decided, for observers.
        alive_U: the units alive at its start, bool [U].
        after: of the model as the round leaves it; filled in where the next round's text goes through it anyway.
        workers: who do the same to theirs.
    """
    keep_U, subject = after.alive_U, job.subject
    wanted = round.compared()
    compared = wanted if round.divergence(job) not in ledger else {}
    divergence: Payload | None = None
    if job.methods.compensator.repairs:
        divergence = _repair(job, round, alive_U, after, compared, ledger)
    if job.slices_between_rounds:
        subject.slice(keep_U)
    workers.settle(keep_U, _files(round, ledger))
    kl: Payload = {}
    if wanted:
        kl = ledger.once(round.divergence(job), lambda: divergence or _walk(job, keep_U, compared))
        if narrowness := describe_narrowness(kl):
            ledger.warn(f"Round {round.number}: {narrowness}")
    perplexity_after = None
    if job.config.eval_rounds and not round.last:  # after the last one it is the pruned model's
        ledger.begin(Stage.EVALUATE, "perplexity after the round", round.number)
        perplexity_after = perplexity(job, keep_U, round.step("evaluate", job.evaluation_NT.size), ledger)
    if subject.in_place and round.last:
        subject.slice(keep_U)
        if job.methods.compensator.adds_bias:
            subject.complete_biases()
    sparsity, tau, removed = (selection[name] for name in ("sparsity", "kendall_tau", "units_removed"))
    ledger.notify(
        RoundFinished(round.number, sparsity, tau, removed, perplexity_after, kl.get("held_out"), kl.get("guard"))
    )


def _repair(
    job: Job,
    round: Round,
    alive_U: NDArray[np.bool_],
    after: RoundStatistics,
    compared: Mapping[str, MeasuringData],
    ledger: Ledger,
) -> Payload | None:
    """Repair the model; one that is in the run directory is reused.

    Returns:
        The divergence, where the repair was computed now: its text went through the layers with that of the repair.
    """
    subject, step, keep_U, files = job.subject, round.repair(job), after.alive_U, _files(round, ledger)
    computed: Payload | None = None
    divergence: Payload | None = None

    def compute() -> Payload:
        nonlocal computed, divergence
        ledger.begin(Stage.REPAIR, f"repair by {job.methods.compensator.name}", round.number)
        before = UnrepairedLayers(job.unrepaired, beside=subject.in_place and job.repairs_dense)
        from_U = job.table.keep_all() if job.repairs_dense else alive_U
        with _storing(job, files, ledger) as stored, closing(before):
            divergence = _walk(job, keep_U, compared, LayerRepairs(job, round, from_U, after, stored, before))
        computed = {"sha256": files.sha256() if job.stores_repairs else NOT_STORED}
        return computed

    def is_intact(payload: Payload) -> bool:
        return files.folder.exists() and files.sha256() == payload["sha256"]

    recorded = ledger.once(step, compute, holds=is_intact)
    if computed is None:
        apply_repairs(subject, files, keep_U, of_dense=job.repairs_dense)
    elif recorded["sha256"] not in (NOT_STORED, computed["sha256"]):
        ledger.warn(f"The repair of round {round.number} was computed again and rounds differently.")
    return divergence


def _files(round: Round, ledger: Ledger) -> TensorFiles:
    """Where the repairs of a round are stored, by site."""
    return TensorFiles(ledger.directory.tensor_path(round.number, "repair"), ledger.directory.writing)


@contextmanager
def _storing(job: Job, files: TensorFiles, ledger: Ledger) -> Iterator[TensorFiles | None]:
    """Where a round's repairs are stored, as a whole or not at all; None if they are too large for that."""
    if not job.stores_repairs:
        yield None
        return
    with ledger.directory.writing(str(files.folder)), atomic_folder(files.folder) as folder:
        yield TensorFiles(folder, ledger.directory.writing)


def _walk(
    job: Job,
    keep_U: NDArray[np.bool_],
    compared: Mapping[str, MeasuringData],
    repairs: LayerRepairs | None = None,
) -> dict[str, float | None]:
    """KL to the dense model on some text, which goes from layer to layer as these are repaired."""
    lockstep = job.lockstep
    streams = {name: lockstep.stream(sample.data.windows_NT) for name, sample in compared.items()}

    def visit(number: int) -> None:
        if repairs is not None:
            repairs.repair_layer(number)
        lanes = LayerLanes.of(job.subject, number, keep_U[None], None)
        for stream in streams.values():
            lockstep.advance(number, stream, lanes)

    lockstep.sweep(visit)
    with lockstep.after_the_layers():
        return {name: _kl(job, sample, streams[name]) for name, sample in compared.items()}


def _kl(job: Job, sample: MeasuringData, stream: Stream) -> float | None:
    """Mean KL to the dense model in nats per token; None where it is not finite."""

    def per_token(logits: Tensor, targets: Tensor, dense: DenseTokens | None) -> Tensor:
        assert dense is not None
        return token_kl(logits, dense)

    mean = job.lockstep.predictions([stream]).token_mean(per_token, stream.ids_NT, sample.dense)
    return mean if math.isfinite(mean) else None
