"""What people see of an adaptation: tables drawn from its report.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bonsai_core.cli.printing import name, number_table, plain, ratio
from bonsai_core.cli.tables import BLOCKS, cautions, page_in, times, verdict_line, verified
from bonsai_core.pages.adaptation import judge


def adapt_view(report: Mapping[str, Any], directory: Path) -> RenderableType:
    """The whole report as tables."""
    next_steps = plain(
        f"checkpoint {directory / 'model'}; report {directory / 'report.json'}; curve {directory / 'curve.svg'}"
        f"{page_in(directory)}\n"
        f"beside the dense model: bonsai eval {directory}",
        lines=True,
    )
    verdict = judge(report)
    tables = _before_and_after(report), _losses(report), *cautions(verdict), _cost(report)
    return Group(verdict_line(verdict), *tables, verified(report), next_steps)


def _before_and_after(report: Mapping[str, Any]) -> Table:
    names, values = ["pruned", "adapted"], [report["perplexity"]["before"], report["perplexity"]["after"]]
    if report["perplexity"]["teacher"] is not None:
        names, values = ["teacher", *names], [report["perplexity"]["teacher"], *values]
    table = number_table("", *names, "change")
    text = report["evaluation"]
    shown = ["not finite" if value is None else f"{value:.2f}" for value in values]
    what = f"perplexity ({text['name']}, {text['windows']} x {text['sequence_length']:,} tokens)"
    table.add_row(name(what), *shown, ratio(*values[-2:]))
    return table


def _losses(report: Mapping[str, Any]) -> RenderableType:
    """The loss over the steps, and its parts at the start and the end."""
    rows = report["losses"]
    size = max(1, len(rows) // 40)
    means = [fmean(row["loss"] for row in rows[i : i + size]) for i in range(0, len(rows), size)]
    low, high = min(means), max(means)
    heights = [(mean - low) / (high - low or 1) for mean in means]
    bars = "".join(BLOCKS[1 + round(height * (len(BLOCKS) - 2))] for height in heights)
    parts = ", ".join(
        f"{part} {rows[0][part]:.3f} to {rows[-1][part]:.3f}" for part in ("lm", "kl", "hidden") if rows[0][part]
    )
    return Text(f"\nloss {bars} {means[0]:.3f} to {means[-1]:.3f} ({parts}, nats per token)\n")


def _cost(report: Mapping[str, Any]) -> Text:
    trained, parameters = report["parameters"]["trained"], report["parameters"]["all"]
    return Text(
        f"{report['steps']:,} steps, {report['tokens']:,} tokens ({report['epochs']:.1f} epochs); "
        f"{trained:,} numbers trained for {parameters:,} parameters\n"
        f"{times(report['seconds'])}; peak memory {report['memory']['peak_bytes'] / 1e6:,.0f} MB"
    )
