"""The page of an adaptation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from bonsai_core.pages import figures
from bonsai_core.pages.costs import costs
from bonsai_core.pages.provenance import measured_with
from bonsai_core.pages.render import Plot, Table, drawn, render
from bonsai_core.pages.settings import command_of, settings_of
from bonsai_core.pages.tiles import Tile
from bonsai_core.pages.verdict import Verdict, grade_of
from bonsai_core.pages.ways import Way
from bonsai_core.pages.words import count, megabytes, number
from bonsai_core.settings.common import Settings


def adapt_page(
    path: Path, report: Mapping[str, Any], ways: Sequence[Way], schema: type[Settings], *, unopened: str = ""
) -> str:
    """The page of a finished adaptation, the same for the same report.

    Args:
        report: its contents, valid by their schema.
        ways: the runtimes that run what was made; empty where they are not known.
        schema: of its configuration.
        unopened: why runtimes are not known.
    """
    config = {name: value for name, value in _config(report).items() if name != "model"}
    command = ("bonsai", "adapt", shlex.quote(str(_config(report).get("model"))))
    return render(
        "adaptation.html",
        verdict=judge(report),
        tiles=tiles(report),
        quality=_plots(report),
        costs=costs(report),
        settings=settings_of(_config(report), schema),
        repeat=command_of(config, schema, *command) or f"{' '.join(command)} --config {path / 'adapt.yaml'}",
        ways=ways,
        unopened=unopened,
        provenance=_provenance(path, report),
    )


def judge(report: Mapping[str, Any]) -> Verdict:
    """The verdict on an adaptation: what it won back. Without a teacher it is graded by what it changed."""
    perplexity = report["perplexity"]
    teacher, before, after = (perplexity[name] for name in ("teacher", "before", "after"))
    helped = before is None or (after is not None and after < before)
    grade, words = grade_of(after / (teacher or before or after) if after else None)
    if not teacher and grade != "broken":
        grade, words = ("good", "better than before") if helped else ("poor", "no better than before")
    summary = [
        f"{report['tokens']:,} tokens in {report['steps']:,} steps brought the perplexity from {number(before)} to "
        f"{number(after)}."
    ]
    if teacher and after is not None:
        summary.append(f"That is {after / teacher:.2f} times the dense model's, which is {number(teacher)}.")
    caution = "It did not lower the perplexity: more tokens or another --learning-rate may." if not helped else ""
    name = PurePath(str(_config(report).get("model"))).name
    return Verdict(f"{name}, adapted", grade, words, tuple(summary), (caution,) if caution else ())


def tiles(report: Mapping[str, Any]) -> list[Tile]:
    """Quality, size and effort, beside what was before."""
    perplexity, parameters = report["perplexity"], report["parameters"]
    teacher = perplexity["teacher"]
    dense = "" if teacher is None else f", dense {number(teacher)}"
    return [
        Tile("perplexity", number(perplexity["after"]), f"before {number(perplexity['before'])}{dense}"),
        Tile("parameters", count(parameters["all"]), f"{count(parameters['trained'])} numbers were trained"),
        Tile("trained on", f"{count(report['tokens'])} tokens", f"{report['epochs']:.2f} times the text"),
        Tile("memory", megabytes(report["memory"]["peak_bytes"]), "at the peak"),
    ]


def _plots(report: Mapping[str, Any]) -> list[Plot]:
    curve = report.get("curve", [])
    per_step = report["tokens"] / max(1, report["steps"])
    loss = figures.parts([row["loss"] for row in report["losses"]])
    plots = []
    if any(point["perplexity"] is not None for point in curve):
        rows = [[f"{point['tokens']:,}", number(point["perplexity"])] for point in curve]
        plots.append(
            Plot(
                "Perplexity while it trained",
                "On evaluation text that it was not trained on; the dashed line is the dense model.",
                drawn("curve", lambda: figures.curve(curve, report["perplexity"]["teacher"])),
                Table(["tokens", "perplexity"], rows),
            )
        )
    plots.append(
        Plot(
            "Loss while it trained",
            "Means over consecutive steps, nats per token: the language-model loss and the distance to the teacher, "
            "with their weights.",
            drawn("loss", lambda: figures.loss([(step * per_step, value) for step, value in loss])),
            Table(["step", "loss"], [[f"{step:,.1f}", f"{value:.4f}"] for step, value in loss]),
        )
    )
    return plots


def _provenance(path: Path, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    evaluation = report["evaluation"]
    facts = [("Adaptation", str(path)), ("Teacher", str(report.get("teacher") or "none"))]
    text = report.get("text")
    facts += [("Text", str(text["name"]))] if isinstance(text, Mapping) and "name" in text else []
    return facts + measured_with(report, evaluation["name"], evaluation)


def _config(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the schema of reports leaves open."""
    config = report.get("config")
    return config if isinstance(config, Mapping) else {}
