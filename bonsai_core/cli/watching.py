"""How far a run is that another process works on, by its directory alone: what `bonsai watch` shows."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.directory import AdaptDirectory, is_adaptation
from bonsai_core.cli.forecast import Progress, seconds_left
from bonsai_core.cli.status import number, result_line
from bonsai_core.display.durations import duration
from bonsai_core.errors import BonsaiError
from bonsai_core.events import PlannedStage, Stage
from bonsai_core.rundir import Journal, JournaledDirectory, RunDirectory

QUIET_S = 20.0
"""Without news for this long, it is asked whether a process still works on the run."""
SILENT_S = 600.0
"""Where nobody can tell that, it counts as running for this long; most stages write more often."""
BEFORE_THE_STAGES = ("run", "adapt", "stages", "prices", "tune")
"""Events of the journal that belong to no stage."""
WORDS = {
    Stage.EVALUATE: "perplexity",
    Stage.DENSE: "the dense model on what is compared",
    Stage.PRIOR: "prior",
    Stage.MEASURE: "sub-models",
    Stage.REPAIR: "repair",
    Stage.TEACHER: "the teacher",
    Stage.TRAIN: "training",
    Stage.SAVE: "checkpoint",
    Stage.LATENCY: "latency, dense and pruned side by side",
    Stage.VERIFY: "the checkpoint, loaded again",
}
Rows = Sequence[tuple[str, Mapping[str, Any], float]]


@dataclass(frozen=True)
class Sight:
    """A run as its directory shows it.

    Attributes:
        directory: that of the run, or of the adaptation in it that follows.
        state: ``running``, ``finished``, ``stopped``, or ``unknown``: it has been silent, and nobody can tell why.
        doing: the stage in words.
        result: the best guess so far of what comes out.
        left_s: about how many seconds are left; None where that is not known.
        spent_s: seconds that all processes worked on it so far.
        quiet_s: seconds since the last news.
    """

    directory: JournaledDirectory
    state: str
    doing: str
    result: str
    left_s: float | None
    spent_s: float
    quiet_s: float

    @property
    def share(self) -> float | None:
        """How much of the time is over, in 0..1; None where that is not known."""
        return None if self.left_s is None else self.spent_s / (self.spent_s + self.left_s + 1e-9)


def watched_directory(run: Path) -> JournaledDirectory:
    """The directory in which the work on a run goes on: its own, or that of its adaptation once there is one.

    Raises:
        BonsaiError: there is no run.
    """
    if is_adaptation(run):
        return AdaptDirectory.open(run)
    try:
        directory = RunDirectory.open(run)
    except BonsaiError as error:
        if RunDirectory(run).config_path.exists():
            raise
        raise BonsaiError(f"{error} If one has just been started: a run writes it once the model is loaded.") from None
    if directory.report_path.exists() and is_adaptation(directory.adapted_path):
        return AdaptDirectory.open(directory.adapted_path)
    return directory


def sight(directory: JournaledDirectory, now: float | None = None) -> Sight:
    """What there is to see now; nothing is changed.

    Args:
        now: seconds since 1970.

    Raises:
        BonsaiError: the journal is damaged, or cannot be read.
    """
    rows = _rows(directory)
    quiet_s = max(0.0, (now or time.time()) - directory.last_change())
    if directory.report_path.exists():
        state = "finished"
    else:
        state = "running" if quiet_s < QUIET_S else _state_in_silence(directory, quiet_s)
    stages = _stages(rows)
    current = next((stage for stage in stages if stage.share != 1), None)
    left_s = 0.0 if stages and current is None else None
    if current is not None and (left_s := seconds_left(stages)) is not None:
        later = seconds_left([stage for stage in stages if stage is not current]) or 0.0
        left_s = max(min(left_s, later), left_s - quiet_s)
    spent_s = sum(seconds for _, _, seconds in rows) + (quiet_s if state == "running" else 0.0)
    before_it = f"after {rows[-1][0]}" if rows else "loading the model"  # of an earlier version, or hardly begun
    doing = before_it if current is None else _doing(current.plan, rows)
    return Sight(directory, state, doing, _result(rows), left_s, spent_s, quiet_s)


def _state_in_silence(directory: JournaledDirectory, quiet_s: float) -> str:
    locked = directory.is_locked()
    if locked is None:
        return "running" if quiet_s < SILENT_S else "unknown"
    return "running" if locked else "stopped"


def _rows(directory: JournaledDirectory) -> Rows:
    if not directory.journal_path.exists():
        return []
    with closing(Journal(directory.journal_path, read_only=True)) as journal:
        return journal.items()


def _stages(rows: Rows) -> list[Progress]:
    """The planned stages with what they took; none of a run of another version."""
    plans = [payload["stages"] for key, payload, _ in rows if key == "stages"]
    try:
        stages = [Progress(PlannedStage(**{**row, "stage": Stage(row["stage"])})) for plan in plans for row in plan]
    except (TypeError, ValueError):  # a stage, or something said of one, that this version does not know
        return []
    index = 0
    for key, _, seconds in rows:
        if key in BEFORE_THE_STAGES or index == len(stages):
            continue
        stages[index].seconds += seconds
        last = [n for n in range(index, len(stages)) if stages[n].plan.last_step == key]
        if last:
            for stage in stages[index : last[0] + 1]:
                stage.share = 1.0
            index = last[0] + 1
    if index < len(stages) and (counted := _counted(stages[index].plan, rows)):
        done, total = counted
        stages[index].share = min(0.99, done / total)
    return stages


def _counted(plan: PlannedStage, rows: Rows) -> tuple[int, int] | None:
    """Sub-models or steps that a stage has done, and all of them; None where nothing is counted."""
    if plan.stage is Stage.TRAIN:
        steps = sum(key.startswith("step-") for key, _, _ in rows)
        return steps, int(plan.last_step.partition("/")[2])
    if plan.stage is Stage.MEASURE:
        started = next(payload for key, payload, _ in rows if key == "run")
        measured = [
            len(payload["values"])
            for key, payload, _ in rows
            if re.fullmatch(rf"round-{plan.round}/submodels-\d+", key)
        ]
        return sum(measured), int(started["config"]["submodels"])
    return None


def _doing(plan: PlannedStage, rows: Rows) -> str:
    rounds = max(_planned_rounds(rows), default=0)
    what = WORDS.get(plan.stage, plan.stage.value)
    if counted := _counted(plan, rows):
        what = f"{what}, {counted[0]:,} of {counted[1]:,}"
    return f"round {plan.round} of {rounds}: {what}" if plan.round else what


def _planned_rounds(rows: Rows) -> list[int]:
    """For each planned stage the round that it belongs to."""
    return [row["round"] for key, payload, _ in rows if key == "stages" for row in payload["stages"]]


def _result(rows: Rows) -> str:
    """Of the last round, or of the last point of an adaptation's curve."""
    by_key = {key: payload for key, payload, _ in rows}
    selections = [key for key in by_key if re.fullmatch(r"round-\d+/selection", key)]
    points = [key for key in by_key if re.fullmatch(r"evaluate/\d+", key)]
    if points:
        return (
            f"after step {points[-1].partition('/')[2]}: perplexity {number(by_key[points[-1]]['perplexity'], '.2f')}"
        )
    if not selections:
        return ""
    kl = by_key.get(f"{selections[-1].partition('/')[0]}/divergence", {})
    return f"so far: {result_line(by_key[selections[-1]]['sparsity'], kl.get('held_out'), kl.get('guard'), None)}"


def summary(report: Mapping[str, Any]) -> str:
    """A finished run, or an adaptation, in half a sentence."""
    perplexity, seconds = report["perplexity"], duration(sum(report["seconds"].values()))
    if "sparsity" in report:
        before, after, what = perplexity["dense"], perplexity["pruned"], f"sparsity {report['sparsity']['decoder']:.2%}"
    else:
        before, after, what = perplexity["before"], perplexity["after"], f"{report['steps']:,} steps"
    return f"{what}, perplexity {number(before, '.2f')} to {number(after, '.2f')}, in {seconds}"
