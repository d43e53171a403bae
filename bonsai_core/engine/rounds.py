"""The rounds of a run as values: target, windows, the dense model's side, random streams."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from bonsai_core.contracts import SampleRequest
from bonsai_core.engine.job import Job
from bonsai_core.engine.perplexities import dense_side
from bonsai_core.events import Stage
from bonsai_core.model.forward.probe import CalibrationData, MeasuringData
from bonsai_core.rundir.ledger import Ledger, Step


class Stream(IntEnum):
    """Independent streams of random numbers of one round; `WholeDrops` has a fourth."""

    PRIOR = 0
    SAMPLER = 1
    SEARCH = 2


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: from 1.
        target: the fraction of what the budget counts that has left afterwards.
        seed: the run's.
        prior_NT: windows for prior and compensator, int64 [windows, sequence].
        measuring: what sub-models are measured on.
        search: what the search and answers with and without wholes are measured on; None where nothing is.
        held_out, guard: windows that nothing is chosen by, of the calibration text and of text of another kind; None
            where there are none.
        last: whether it is the last one.
    """

    number: int
    target: float
    seed: int
    prior_NT: NDArray[np.int64]
    measuring: MeasuringData
    search: MeasuringData | None
    held_out: MeasuringData | None
    guard: MeasuringData | None
    last: bool

    def rng(self, stream: Stream, *numbers: int) -> np.random.Generator:
        """The generator of a stream, or of a numbered part of it."""
        return np.random.default_rng([self.seed, self.number, stream, *numbers])

    @property
    def prior_seed(self) -> int:
        """For priors that draw."""
        return int(np.random.SeedSequence([self.seed, self.number, Stream.PRIOR]).generate_state(1)[0])

    def step(self, name: str, tokens: int = 0) -> Step:
        """A step of this round."""
        return Step(name, self.number, tokens)

    def selection(self, job: Job) -> Step:
        """All that the round decides. The repair's tokens count in its own step, since a resumed run may repeat it."""
        return self.step("selection", job.plan.prune_tokens - self.repair(job).tokens)

    def divergence(self, job: Job) -> Step:
        """The comparison with the dense model after the round."""
        return self.step("divergence", job.plan.divergence_tokens)

    def compared(self) -> dict[str, MeasuringData]:
        """Text to compare the model with the dense one on after the round, by name; empty where that is not wanted.

        To that which decides nothing the sub-models' own is added: how much less KL is on it is overfitting.
        """
        texts = {"held_out": self.held_out, "guard": self.guard}
        deciding_nothing = {name: sample for name, sample in texts.items() if sample is not None}
        own = {} if self.measuring.dense is None else {"measured": self.measuring}
        return deciding_nothing | own if deciding_nothing else {}

    def repair(self, job: Job) -> Step:
        """The repair after the selection, whose text goes through every layer before it is repaired and after."""
        return self.step("repair", 2 * self.prior_NT.size if job.methods.compensator_reads_text else 0)


def plan_rounds(job: Job, ledger: Ledger) -> tuple[Round, ...]:
    """All rounds, with the dense model's side of everything that they compare.

    The model has to be dense still. Where all rounds are finished, no dense side is computed.
    """
    drawn, targets = job.calibration, job.plan.targets
    samples = _samples(job, ledger)
    draws = len(drawn.prior_RNT)
    return tuple(
        Round(
            number=index + 1,
            target=target,
            seed=job.config.seed,
            prior_NT=drawn.prior_RNT[index % draws],
            measuring=samples.measured[index % draws],
            search=samples.search[index % draws] if samples.search else None,
            held_out=samples.held_out,
            guard=samples.guard,
            last=index + 1 == len(targets),
        )
        for index, target in enumerate(targets)
    )


def sample_request(job: Job, round: Round, alive_U: NDArray[np.bool_], prior_U: NDArray[np.float64]) -> SampleRequest:
    """What the round asks its sampler for."""
    table, rules = job.budget.table, job.rules
    missing = round.target * table.decoder_params - table.removed_params(alive_U)
    leaving = int(table.cost_U[alive_U & rules.may_leave(table)].sum())
    return SampleRequest(
        table,
        alive_U,
        prior_U,
        drop_fraction=min(0.5, max(0.0, missing / max(1, leaving))),
        num_submodels=job.config.submodels,
        minimum_S=np.array([rules.minimum(site) for site in table], dtype=np.int64),
        rank=job.config.rank,
    )


@dataclass(frozen=True)
class _Samples:
    """What rounds measure on, per draw; what their searches measure on, per draw; and what nothing is chosen by."""

    measured: list[MeasuringData]
    search: list[MeasuringData]
    held_out: MeasuringData | None
    guard: MeasuringData | None


def _samples(job: Job, ledger: Ledger) -> _Samples:
    drawn, compared = job.calibration, job.methods.compared
    watched = [windows_NT for windows_NT in (drawn.held_out_NT, drawn.guard.windows_NT) if len(windows_NT)]
    last = "divergence" if watched else "selection"
    finished = all(Step(last, number) in ledger for number in range(1, len(job.plan.targets) + 1))
    needs_dense = bool(compared or watched) and not finished

    def sample(data: CalibrationData, wanted: bool = True) -> MeasuringData:
        return MeasuringData(data, dense_side(job, data.windows_NT, ledger) if wanted and needs_dense else None)

    def samples() -> _Samples:
        measured, search = ([sample(data, compared) for data in draws] for draws in (drawn.data, drawn.search))
        held_out, guard = (
            sample(CalibrationData(windows_NT)) if len(windows_NT) else None
            for windows_NT in (drawn.held_out_NT, drawn.guard.windows_NT)
        )
        return _Samples(measured, search, held_out, guard)

    if needs_dense:
        ledger.begin(Stage.DENSE, "the dense model on what is compared")
        return ledger.timed(Step("dense"), samples)
    ledger.skip(job.plan.dense_tokens if finished else 0)
    return samples()
