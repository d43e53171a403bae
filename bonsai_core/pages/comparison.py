"""Several runs side by side: a table, and the paper's Figure 1 of quality, speed and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bonsai_core.display import plotting
from bonsai_core.display.bubbles import Bubble, draw_bubbles
from bonsai_core.display.durations import duration
from bonsai_core.display.plotting import COLOURS
from bonsai_core.display.printable import last_parts
from bonsai_core.pages import figures
from bonsai_core.pages.render import Plot, Table, drawn, render
from bonsai_core.pages.verdict import grade_of, loss_of, model_name, speedups
from bonsai_core.pages.words import count, megabytes, number, percent

PHASES = ("decode", "prefill", "forward")
"""What speeds are compared by: the first of these that all runs have."""


@dataclass(frozen=True)
class Entry:
    """A finished run: where it is, its report, and that of the adaptation that followed, if one did."""

    path: Path
    report: Mapping[str, Any]
    adapted: Mapping[str, Any] | None = None


def comparison_page(entries: Sequence[Entry]) -> str:
    """The page, the same for the same reports."""
    return render(
        "comparison.html",
        title=f"{len(entries)} runs side by side",
        summary=summary(entries),
        cautions=cautions(entries),
        plots=_plots(entries),
        table=table(entries),
    )


def table(entries: Sequence[Entry]) -> Table:
    """A row for each run."""
    names = last_parts([str(entry.path) for entry in entries])
    header = ["", "run", "model", "removed", "parameters", "weights", "perplexity, dense and pruned"]
    header += ["over the dense", "KL, held out"]
    phases = [phase for phase in PHASES if any(phase in speedups(entry.report["latency"]) for entry in entries)]
    header += [*(f"{phase} speed" for phase in phases), "time", "peak memory"]
    rows = []
    for place, entry in enumerate(entries, 1):
        report, loss = entry.report, loss_of(entry.report, entry.adapted)
        perplexity, speeds = report["perplexity"], speedups(report["latency"])
        divergence = report["rounds"][-1].get("divergence", {}) if report["rounds"] else {}
        kl = divergence.get("held_out")
        cells = [str(place), names[str(entry.path)], model_name(report), percent(report["sparsity"]["decoder"])]
        cells += [count(report["parameters"]["pruned"]), megabytes(report["weight_bytes"]["pruned"])]
        cells += [f"{number(perplexity['dense'])} and {number(perplexity['pruned'])}"]
        then = ", adapted" if entry.adapted else ""
        cells += ["not finite" if loss is None else f"x {loss:.2f}{then}", "-" if kl is None else f"{kl:.3f}"]
        cells += [f"x {speeds[phase]['median']:.2f}" if phase in speeds else "-" for phase in phases]
        cells += [duration(sum(report["seconds"].values())), megabytes(report["memory"]["peak_bytes"])]
        rows.append(cells)
    return Table(header, rows, num_names=3)


def summary(entries: Sequence[Entry]) -> str:
    """The best by quality, and the fastest."""
    names = last_parts([str(entry.path) for entry in entries])
    losses = [(loss_of(entry.report, entry.adapted), entry) for entry in entries]
    finite = [(loss, entry) for loss, entry in losses if loss is not None]
    if not finite:
        return "None of them has a finite perplexity."
    loss, best = min(finite, key=lambda pair: pair[0])
    words = [
        f"{names[str(best.path)]} lost the least: x {loss:.2f} of the dense model's perplexity, {grade_of(loss)[1]}."
    ]
    phase = _phase(entries)
    if phase is not None:
        timed = [(speedups(entry.report["latency"])[phase]["median"], entry) for entry in entries]
        speed, fastest = max(timed, key=lambda pair: pair[0])
        words.append(f"{names[str(fastest.path)]} is the fastest: {phase} at x {speed:.2f} of the dense model's speed.")
    return " ".join(words)


def cautions(entries: Sequence[Entry]) -> list[str]:
    """What makes the numbers hard to compare."""

    def different(of: str, value: Any) -> list[str]:
        return [of] if len({repr(value(entry.report)) for entry in entries}) > 1 else []

    where = different("models", lambda report: report["config"]["model"])
    where += different(
        "texts or windows that perplexity is measured on",
        lambda report: [report["perplexity"][name] for name in ("text", "windows", "sequence_length")],
    )
    where += different("versions", lambda report: report.get("versions"))
    return [f"They have different {' and different '.join(where)}: compare with care."] if where else []


def _phase(entries: Sequence[Entry]) -> str | None:
    """What all of them were timed in."""
    timed = [speedups(entry.report["latency"]) for entry in entries]
    return next((phase for phase in PHASES if all(phase in found for found in timed)), None)


def _plots(entries: Sequence[Entry]) -> list[Plot]:
    phase = _phase(entries)
    label = "removed from the decoder layers, %" if phase is None else f"{phase} speed, times the dense model's"
    losses = [(str(n), entry, loss_of(entry.report, entry.adapted)) for n, entry in enumerate(entries, 1)]
    bubbles = [
        Bubble(model_name(entry.report), _across(entry, phase), loss, entry.report["weight_bytes"]["pruned"], n)
        for n, entry, loss in losses
        if loss is not None
    ]
    missing = [n for n, _, loss in losses if loss is None]
    left_out = f" Not drawn, without a finite perplexity: {', '.join(missing)}." if missing else ""
    if not bubbles:
        return []
    return [
        Plot(
            "Quality, speed and memory",
            "Lower and further right is better. The area of a circle is the memory that the weights take, its number "
            f"the row of the table.{left_out}",
            drawn("bubbles", lambda: _bubbles(bubbles, label)),
        )
    ]


def _across(entry: Entry, phase: str | None) -> float:
    """Where a run is from left to right: by its speed, or where that is not known of all, by what has left it."""
    if phase is None:
        return 100 * float(entry.report["sparsity"]["decoder"])
    return float(speedups(entry.report["latency"])[phase]["median"])


def _bubbles(bubbles: Sequence[Bubble], label: str) -> Figure:
    figure, axes = plotting.small()
    models = dict.fromkeys(bubble.series for bubble in bubbles)
    draw_bubbles(axes, bubbles, {model: COLOURS[n % len(COLOURS)] for n, model in enumerate(models)})
    figures.legend(axes)
    plotting.scale_axis(axes, "x", [bubble.x for bubble in bubbles], False, label, pad=0.2)
    plotting.scale_axis(axes, "y", [bubble.y for bubble in bubbles], "auto", "perplexity, times the dense", pad=0.2)
    return figure
