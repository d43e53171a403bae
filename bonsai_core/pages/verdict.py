"""The verdict on a run in a few sentences, from its report: what it is, what it saves, what it lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from bonsai_core.pages.words import count, number, percent
from bonsai_core.rundir.calibration_text import describe_repetition
from bonsai_core.rundir.divergence import describe_narrowness
from bonsai_core.rundir.slowness import describe_slowness
from bonsai_core.settings.quantities import TARGETS

LOSSES = ((1.05, "good", "barely changed"), (1.25, "good", "a small loss"), (2.0, "fair", "a clear loss"))
"""(at most this many times the dense model's perplexity, grade, words); anything above is a heavy loss, and poor."""
WEAK_TAU = 0.2
"""Below this Kendall tau, importances are little better than a guess."""
MISSED = 1.05
"""Measured over wanted, of a budget: timings vary by less."""
DROPPED = 0.1
"""Fraction of a run's sub-models without a finite value that is worth a word."""


@dataclass(frozen=True)
class Verdict:
    """What a run came to.

    Attributes:
        title: the model and how much smaller it is.
        grade: ``good``, ``fair``, ``poor`` or ``broken``, by what is left of the quality.
        words: the grade in words.
        summary: what it saves and what it lost, a sentence each.
        cautions: what else the reader should know.
    """

    title: str
    grade: str
    words: str
    summary: tuple[str, ...]
    cautions: tuple[str, ...]


def judge(report: Mapping[str, Any], adapted: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict on a run.

    Args:
        report: the run's, valid by its schema.
        adapted: that of the adaptation that followed, if one did; the grade is of what it made.
    """
    last = report if adapted is None else adapted
    grade, words = grade_of(loss_of(report, adapted))
    parameters = report["parameters"]
    left = parameters["pruned"] / parameters["dense"] if parameters["dense"] else 1.0
    cautions = [
        _broken(report, adapted),
        _heavy(grade),
        describe_slowness(report["latency"], report["config"].get("round_to")),
        describe_narrowness(report["rounds"][-1].get("divergence", {}) if report["rounds"] else {}),
        describe_repetition(report.get("calibration")),
        _missed_budget(report.get("budget")),
        _weak(report["rounds"]),
        _unverified(last),
    ]
    return Verdict(
        f"{model_name(report)}, {percent(max(0.0, 1 - left))} smaller",
        grade,
        words,
        (_saved(report), _speed(report["latency"]), _lost(report), *_recovered(adapted)),
        tuple(caution for caution in cautions if caution),
    )


def model_name(report: Mapping[str, Any]) -> str:
    """The last part of the model's name, which may be a path."""
    model = str(report["config"]["model"])
    return PurePath(model).name or model


def loss_of(report: Mapping[str, Any], adapted: Mapping[str, Any] | None = None) -> float | None:
    """How many times the dense model's perplexity that of the result is; None where either is not finite."""
    dense, pruned = report["perplexity"]["dense"], report["perplexity"]["pruned"]
    if adapted is not None:  # measured on its own text, so that only the ratio counts
        teacher, before, after = (adapted["perplexity"][name] for name in ("teacher", "before", "after"))
        if pruned is None and teacher and after is not None:  # training has made it finite
            return float(after / teacher)
        pruned = pruned * after / before if pruned and before and after is not None else None
    return pruned / dense if dense and pruned is not None else None


def grade_of(loss: float | None) -> tuple[str, str]:
    """The grade, and its words, of how many times the dense model's perplexity there is."""
    if loss is None:
        return "broken", "broken"
    return next(((grade, words) for most, grade, words in LOSSES if loss <= most), ("poor", "a heavy loss"))


def speedups(latency: Mapping[str, Any] | None) -> dict[str, Mapping[str, float]]:
    """Dense over pruned time by phase, as median, low and high; empty where nothing was timed."""
    latency = latency or {}
    if latency.get("phases"):
        return {name: phase["speedup"] for name, phase in latency["phases"].items()}
    if "dense_s" not in latency:
        return {}
    ratio = latency["dense_s"] / latency["pruned_s"]
    return {"forward": {"median": ratio, "low": ratio, "high": ratio}}


def _saved(report: Mapping[str, Any]) -> str:
    parameters, sparsity = report["parameters"], report["sparsity"]
    return (
        f"{percent(sparsity['decoder'])} of the decoder layers' parameters were removed: "
        f"{count(parameters['dense'])} parameters became {count(parameters['pruned'])}."
    )


def _speed(latency: Mapping[str, Any] | None) -> str:
    found = speedups(latency)
    if not found:
        return "How fast it is was not measured."
    parts = []
    for phase, times in found.items():
        sure = "" if times["low"] > 1 or times["high"] < 1 or phase == "forward" else " (within the noise of 1)"
        parts.append(f"{phase} runs at {times['median']:.2f} times the dense model's speed{sure}")
    return f"On the device at hand, {' and '.join(parts)}."


def _lost(report: Mapping[str, Any]) -> str:
    perplexity = report["perplexity"]
    dense, pruned, text = perplexity["dense"], perplexity["pruned"], perplexity["text"]["name"]
    where = f"on {PurePath(text).name or text}"
    if text == (report.get("calibration") or {}).get("name"):
        where += " (held-out text of the kind that it was calibrated on; others may show more)"
    if dense is None or pruned is None:
        return f"Perplexity {where} went from {number(dense)} to {number(pruned)}."
    verb = "rose" if pruned > dense else "fell"
    return (
        f"Perplexity {where} {verb} from {number(dense)} to {number(pruned)}, {number(loss_of(report))} times as much."
    )


def _recovered(adapted: Mapping[str, Any] | None) -> tuple[str, ...]:
    if adapted is None:
        return ()
    before, after = adapted["perplexity"]["before"], adapted["perplexity"]["after"]
    return (
        f"Adaptation on {adapted['tokens']:,} tokens then brought the perplexity from {number(before)} to "
        f"{number(after)}.",
    )


def _broken(report: Mapping[str, Any], adapted: Mapping[str, Any] | None) -> str:
    if loss_of(report, adapted) is not None:
        return ""
    return (
        "Its perplexity is not finite: this model cannot be used. Try --dtype float32 or bfloat16, a smaller "
        "--sparsity, or a smaller --round-fraction."
    )


def _heavy(grade: str) -> str:
    if grade != "poor":
        return ""
    return (
        f"The perplexity is more than {LOSSES[-1][0]:g} times the dense model's. Texts that it writes will show it. "
        f"Train it to recover (bonsai adapt), or remove less (--sparsity)."
    )


def _missed_budget(budget: Mapping[str, Any] | None) -> str:
    if not budget or budget["of"] not in TARGETS or (budget["measured"] or 0) <= MISSED * budget["target"]:
        return ""
    target = TARGETS[budget["of"]]
    shown = (target.quantity.shown(budget[name]) for name in ("target", "measured"))
    return "The budget was missed: {} were wanted, {} measured.".format(*shown)


def _weak(rounds: list[Mapping[str, Any]]) -> str:
    taus = [row["kendall_tau"] for row in rounds if row["kendall_tau"] is not None]
    measured, dropped = (sum(row[name] for row in rounds) for name in ("submodels", "dropped_submodels"))
    words = []
    if taus and sum(taus) / len(taus) < WEAK_TAU:
        words.append(
            f"The regression hardly predicts sub-models that it has not seen (mean Kendall tau "
            f"{sum(taus) / len(taus):.2f}): more --submodels or --samples would help."
        )
    if dropped > DROPPED * (measured + dropped):
        words.append(f"{dropped:,} of {measured + dropped:,} sub-models gave no finite value and were left out.")
    return " ".join(words)


def _unverified(report: Mapping[str, Any]) -> str:
    skipped = report["verified"].get("skipped")
    return f"The checkpoint was not opened again to verify it: {skipped}" if skipped else ""
