"""report.json of an adaptation, and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.display import plotting
from bonsai_core.pages.figures import parts
from bonsai_core.rundir import Journal


def build_adapt_report(journal: Journal, job: AdaptJob) -> dict[str, Any]:
    """The report's contents, from a finished adaptation's journal."""
    config, schedule = job.config, job.schedule

    def perplexity(of: str | int) -> float | None:
        value: float | None = journal[f"evaluate/{of}"]["perplexity"]
        return value

    return {
        "config": config.model_dump(mode="json", exclude={"out"}),
        "teacher": job.teacher,
        "text": journal["adapt"]["text"],
        "evaluation": {
            **journal["adapt"]["evaluation"],
            "windows": len(job.evaluation_NL),
            "sequence_length": job.evaluation_NL.shape[1],
        },
        "perplexity": {
            "teacher": perplexity("teacher") if "evaluate/teacher" in journal else None,
            "before": perplexity(0),
            "after": perplexity("adapted"),
        },
        "curve": [
            {"step": step, "tokens": step * job.tokens // schedule.steps, "perplexity": perplexity(step)}
            for step in job.curve_steps
        ],
        "steps": schedule.steps,
        "tokens": job.tokens,
        "epochs": schedule.epochs,
        "losses": [{"step": step, **journal[f"step-{step}"]} for step in range(1, schedule.steps + 1)],
        "parameters": {"all": journal["save"]["parameters"], "trained": journal["trained"]["parameters"]},
        "weight_bytes": journal["save"]["bytes"],
        "verified": journal["verify"],
        "memory": {"peak_bytes": journal["peak"]["bytes"]},
        "seconds": journal.seconds(lambda key: "train" if key.startswith("step-") else key.split("/")[0]),
        "versions": journal["adapt"]["versions"],
    }


def draw_curve(report: Mapping[str, Any], stem: Path) -> None:
    """Perplexity and loss over the tokens trained on, as <stem>.svg and <stem>.png."""
    points = [(row["tokens"], row["perplexity"]) for row in report["curve"] if row["perplexity"] is not None]
    per_step = report["tokens"] / report["steps"]
    with plotting.style():
        figure, axes = plotting.empty(f"Adaptation of {Path(report['config']['model']).name}")
        colour, faint = plotting.COLOURS[0], plotting.COLOURS[1]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", linewidth=2)
        heights = [height for _, height in points]
        teacher = report["perplexity"]["teacher"]
        if teacher is not None:
            axes.axhline(teacher, color=plotting.FAINT, linestyle=plotting.DASHES[1], linewidth=1.2)
            heights.append(teacher)
        plotting.scale_axis(axes, "y", heights, "auto", "perplexity", pad=0.08)
        plotting.scale_axis(axes, "x", [tokens for tokens, _ in points], False, "tokens trained on", pad=0.02)
        ends = [(points[-1][1], f"{points[-1][1]:.1f}", colour)]
        ends += [(teacher, f"teacher {teacher:.1f}", plotting.FAINT)] if teacher is not None else []
        plotting.label_right(figure, axes, ends)
        losses = axes.twinx()
        means = parts([row["loss"] for row in report["losses"]])
        losses.plot([place * per_step for place, _ in means], [loss for _, loss in means], color=faint, linewidth=1.2)
        losses.spines[:].set_visible(False)
        losses.tick_params(length=0, labelright=False)
        losses.annotate(
            f"loss {means[0][1]:.2f} to {means[-1][1]:.2f}",
            xy=(0.98, 0.95),
            xycoords="axes fraction",
            ha="right",
            color=faint,
            fontsize=9,
            fontweight="bold",
        )
        plotting.save(figure, stem)
