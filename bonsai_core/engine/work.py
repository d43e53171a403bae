"""How much work each stage of a run is, in forward tokens of the dense model, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator

from bonsai_core.engine.job import Job
from bonsai_core.events import PlannedStage, Stage
from bonsai_core.model.forward.layer_totals import MOMENTS, Reader, statistic_of

PRIOR_SOLVES, REPAIR_SOLVES = 2.0, 0.2
"""Multiplications, per cubed channel of a site, that plugins which read second moments do with them."""
COMPARED = 1.5
"""Of the head, where what it predicts is kept to be compared with."""
DECODED = 14
"""Tokens of a prompt that take as long as one that is generated."""
TIMED_TURNS, TIMED_TOKENS = 8, 8
"""Of the timing at the end: turns of both models, and tokens that each generates."""
LOADS = 2
"""How often the verification loads the checkpoint."""
DISK_RATE = 300e6
"""Bytes per second that checkpoints are written and read at."""


def planned_stages(job: Job) -> tuple[PlannedStage, ...]:
    """The stages of a run in order, with the work of each."""
    work = _Work(job)
    rounds = range(1, len(job.plan.targets) + 1)
    return (*work.before(), *(stage for number in rounds for stage in work.round(number)), *work.after())


class _Work:
    """Counts multiplications, relative to those of one token's forward pass through the dense model."""

    def __init__(self, job: Job) -> None:
        table, head = job.table, job.subject.model.get_output_embeddings().weight.numel()
        dense = table.decoder_params + head
        channels = [site.num_units * site.unit_channels for site in table if site.has_output]
        self._job = job
        self._layers, self._head = table.decoder_params / dense, head / dense
        self._moments = sum(width**2 for width in channels) / 2 / dense  # they are symmetric
        self._cubes = sum(width**3 for width in channels) / dense
        self._text = job.calibration.prior_RNT[0].size

    def before(self) -> Iterator[PlannedStage]:
        plan, evaluation = self._job.plan, self._job.evaluation_NT.size
        yield PlannedStage(Stage.EVALUATE, 0, evaluation, evaluation, 0, "evaluate/dense")
        if plan.dense_tokens:
            work = plan.dense_tokens * (self._layers + COMPARED * self._head)
            yield PlannedStage(Stage.DENSE, 0, work, plan.dense_tokens, 0, "dense")

    def round(self, number: int) -> Iterator[PlannedStage]:
        job, methods, plan = self._job, self._job.methods, self._job.plan
        last = number == len(plan.targets)
        before, after = self._left(number - 1), self._left(number)
        layers, one_pass = before * self._layers, before * self._layers + self._head
        if number > 1 and self._looks_ahead:  # the repair of the round before has read it
            tokens, work = 0, 0.0
        else:
            tokens = self._text if methods.prior_reads_text else 0
            work = tokens * (layers + self._moments_of(methods.prior))
        if self._moments_of(methods.prior):
            work += PRIOR_SOLVES * self._cubes * before**2
        yield PlannedStage(Stage.PRIOR, number, work, tokens, 0, f"round-{number}/prior")
        tokens = plan.submodel_tokens + (0 if methods.compensator.repairs else plan.divergence_tokens)
        if tokens:
            yield PlannedStage(Stage.MEASURE, number, tokens * one_pass, tokens, 0, f"round-{number}/selection")
        if methods.compensator.repairs:
            tokens = plan.divergence_tokens
            work = tokens * (after * self._layers + self._head)
            if methods.compensator_reads_text:
                tokens += 2 * self._text
                from_dense = 1.0 if job.repairs_dense else before
                work += self._text * (from_dense + after) * self._layers
                work += self._text * self._moments_of(methods.compensator)
                work += 0 if last or not self._looks_ahead else self._text * self._moments_of(methods.prior)
            if self._moments_of(methods.compensator):
                work += REPAIR_SOLVES * self._cubes
            yield PlannedStage(Stage.REPAIR, number, work, tokens, 0, f"round-{number}/repair")
        if job.config.eval_rounds and not last:
            tokens = job.evaluation_NT.size
            work = tokens * (after * self._layers + self._head)
            yield PlannedStage(Stage.EVALUATE, number, work, tokens, 0, f"round-{number}/evaluate")

    def after(self) -> Iterator[PlannedStage]:
        job, (windows, length) = self._job, self._job.evaluation_NT.shape
        layers = self._left(len(job.plan.targets)) * self._layers
        one_pass = layers + self._head
        weights_s = one_pass * job.dense_bytes / DISK_RATE
        yield PlannedStage(Stage.EVALUATE, 0, (windows + 1) * length * one_pass, windows * length, 0, "loss")
        yield PlannedStage(Stage.SAVE, 0, 0, 0, weights_s, "save")
        if job.config.latency:
            work = TIMED_TURNS * (self._layers + layers) * (length + TIMED_TOKENS * DECODED)
            yield PlannedStage(Stage.LATENCY, 0, work, 0, job.dense_bytes / DISK_RATE, "latency")
        yield PlannedStage(Stage.VERIFY, 0, LOADS * length * one_pass, 0, LOADS * weights_s, "verify")

    def _left(self, number: int) -> float:
        """The share of the layers that is left after a round, where passes are the shorter for it."""
        return 1 - (0.0, *self._job.plan.targets)[number] if self._job.slices_between_rounds else 1.0

    @property
    def _looks_ahead(self) -> bool:
        """Whether a repair reads what the next round's prior needs."""
        job, methods = self._job, self._job.methods
        fits = job.keeps_moments or not self._moments_of(methods.prior)
        same_text = len(job.calibration.prior_RNT) == 1
        return methods.prior_reads_text and methods.compensator_reads_text and same_text and fits

    def _moments_of(self, plugin: Reader) -> float:
        """What a plugin's second moments add to the pass of one token."""
        return self._moments if statistic_of(plugin) == MOMENTS else 0.0
