"""The results of a sweep: a row per run and per evaluated round, gathered over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bonsai_core.sweep.one_run import Outcome
from bonsai_core.sweep.quantities import MEASURED, describe

NOT_PRUNING = ("evaluate", "latency", "loss", "save", "verify")
"""Stages whose time is not that of pruning."""


@dataclass(frozen=True)
class Row:
    """One run, or one round of it; None stands for what is not finite, or was not measured.

    Attributes:
        directory: the name of the run's, in the sweep's.
        round: from 1; None: the run's end.
        sparsity: fraction of the decoder layers' parameters removed.
        speedup: dense over pruned forward time.
        prune_s: seconds of pruning, without evaluation, timing and saving.
        kendall_tau: out of fold, mean over the rounds.
        error: why the run failed.
    """

    arm: str
    point: Mapping[str, Any]
    seed: int
    directory: str
    round: int | None = None
    sparsity: float | None = None
    perplexity: float | None = None
    dense_perplexity: float | None = None
    adapted_perplexity: float | None = None
    weight_mb: float | None = None
    parameters: int | None = None
    speedup: float | None = None
    prune_s: float | None = None
    kendall_tau: float | None = None
    error: str | None = None

    def value(self, quantity: str) -> float | None:
        """The number of a quantity."""
        number: float | None = getattr(self, quantity)
        return number


@dataclass(frozen=True)
class Stat:
    """One quantity over seeds; a seed without a finite number leaves mean and deviation without one too."""

    values: tuple[float | None, ...]

    @property
    def finite(self) -> tuple[float, ...]:
        """The finite numbers."""
        return tuple(value for value in self.values if value is not None)

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        return statistics.fmean(self.finite) if self.values and len(self.finite) == len(self.values) else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None for fewer than two seeds."""
        return None if self.mean is None or len(self.finite) < 2 else statistics.stdev(self.finite)

    @property
    def low(self) -> float | None:
        """The smallest."""
        return min(self.finite, default=None)

    @property
    def high(self) -> float | None:
        """The largest."""
        return max(self.finite, default=None)


@dataclass(frozen=True)
class Group:
    """The rows of one arm at one point, one per seed; `failed` counts seeds without one."""

    arm: str
    point: Mapping[str, Any]
    round: int | None
    rows: tuple[Row, ...]
    failed: int

    def __str__(self) -> str:
        return describe(self.arm, self.point)

    def stat(self, quantity: str) -> Stat:
        """A quantity over the seeds."""
        return Stat(tuple(row.value(quantity) for row in self.rows))


def rows_of(outcome: Outcome) -> Iterator[Row]:
    """A finished run's rows: every evaluated round, then its end. A failed run's: the reason."""
    run, report = outcome.run, outcome.report
    identity: dict[str, Any] = {"arm": run.arm, "point": run.point, "seed": run.seed, "directory": run.name}
    if report is None:
        yield Row(**identity, error=outcome.error)
        return
    dense, pruned = report["perplexity"]["dense"], report["perplexity"]["pruned"]
    if report["config"]["eval_rounds"]:
        for number, entry in enumerate(report["rounds"], 1):
            yield Row(
                **identity,
                round=number,
                sparsity=entry["sparsity"],
                perplexity=entry.get(MEASURED, pruned),  # the last round's is that of the run
                dense_perplexity=dense,
                kendall_tau=entry["kendall_tau"],
            )
    latency = report["latency"] or {}
    taus = [entry["kendall_tau"] for entry in report["rounds"] if entry["kendall_tau"] is not None]
    yield Row(
        **identity,
        sparsity=report["sparsity"]["decoder"],
        perplexity=pruned,
        dense_perplexity=dense,
        adapted_perplexity=outcome.adapted["perplexity"]["after"] if outcome.adapted else None,
        weight_mb=report["weight_bytes"]["pruned"] / 1e6,
        parameters=report["parameters"]["pruned"],
        speedup=latency["dense_s"] / latency["pruned_s"] if "dense_s" in latency else None,
        prune_s=round(sum(s for stage, s in report["seconds"].items() if stage not in NOT_PRUNING), 3),
        kendall_tau=statistics.fmean(taus) if taus else None,
    )


def grouped(rows: Sequence[Row], *, rounds: bool = False) -> list[Group]:
    """Rows gathered over seeds, in the sweep's order: of the runs' ends, or with `rounds` of their rounds, if any."""
    by_round = {row.directory for row in rows if row.round is not None} if rounds else set()
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.error is not None or (row.round is not None) == (row.directory in by_round):
            groups.setdefault(repr((row.arm, row.point, row.round)), []).append(row)
    gathered = []
    for first, *others in groups.values():
        good = tuple(row for row in (first, *others) if row.error is None)
        gathered.append(Group(first.arm, first.point, first.round, good, 1 + len(others) - len(good)))
    return gathered


def dense_perplexity(rows: Sequence[Row]) -> float | None:
    """The dense model's perplexity where all runs share one; None otherwise."""
    values = {row.dense_perplexity for row in rows if row.error is None}
    return values.pop() if len(values) == 1 else None
