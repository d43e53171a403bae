"""The page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bonsai_core.config import RunConfig
from bonsai_core.pages import figures, heat
from bonsai_core.pages.arrays import Predictions, SiteRanks, predictions, site_ranks
from bonsai_core.pages.costs import costs
from bonsai_core.pages.provenance import measured_with
from bonsai_core.pages.render import Plot, Table, drawn, render
from bonsai_core.pages.settings import command_of, settings_of
from bonsai_core.pages.tiles import tiles
from bonsai_core.pages.verdict import judge
from bonsai_core.pages.ways import Way
from bonsai_core.pages.words import number, percent
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.calibration_text import describe_text

MOST_ROUNDS = 100
"""In tables and plots; of more, the first and the last."""


def run_page(
    directory: RunDirectory,
    report: Mapping[str, Any],
    ways: Sequence[Way],
    adapted: Mapping[str, Any] | None = None,
    *,
    unopened: str = "",
) -> str:
    """The page of a finished run, the same for the same report and arrays.

    Args:
        report: its contents, valid by their schema.
        ways: the runtimes of what came out last; empty where they are not known.
        adapted: the report of the adaptation that followed, if one did.
        unopened: why runtimes are not known.
    """
    rounds, config, most = report["rounds"], report["config"], heat.largest(report["layers"])
    return render(
        "run.html",
        verdict=judge(report, adapted),
        tiles=tiles(report, adapted),
        quality=_quality(report),
        rounds=_rounds(report),
        strips=heat.strips(report["layers"]),
        most_removed=percent(most) if most else None,
        ticks=heat.ticks(report["layers"]),
        num_layers=min(len(report["layers"]), heat.MOST_LAYERS),
        layers=heat.table(report["layers"]),
        regression=[*_predicted(directory, rounds), *_ranked(site_ranks(directory, 1, report["layers"]))],
        costs=costs(report),
        settings=settings_of(config, RunConfig),
        repeat=command_of(config, RunConfig, "bonsai", "run") or f"bonsai run --config {directory.config_path}",
        ways=ways,
        unopened=unopened,
        provenance=_provenance(directory.path, report),
    )


def _quality(report: Mapping[str, Any]) -> list[Plot]:
    rounds, perplexity = [row for _, row in _first_and_last(report["rounds"])], report["perplexity"]
    plots = []
    if any(row.get("divergence") for row in rounds):
        plots.append(
            Plot(
                "How far from the dense model",
                "KL divergence of the next-token distributions after each round. Nothing is chosen by the held-out "
                "text and the guard; where these are far above the text measured on, the run has overfitted.",
                drawn("divergence", lambda: figures.divergence(rounds)),
            )
        )
    if report["config"]["eval_rounds"] and len(rounds) > 1:
        plots.append(
            Plot(
                "Perplexity after each round",
                f"On {perplexity['windows']:,} windows of {perplexity['sequence_length']:,} tokens; lower is better.",
                drawn("perplexity", lambda: figures.perplexity(rounds, perplexity["dense"], perplexity["pruned"])),
            )
        )
    return plots


def _rounds(report: Mapping[str, Any]) -> Table:
    """What matters most comes first: a phone shows four columns."""
    rounds = _first_and_last(report["rounds"])
    compared = [
        name
        for name in ("held_out", "measured", "guard")
        if any(name in row.get("divergence", {}) for _, row in rounds)
    ]
    evaluated = report["config"]["eval_rounds"]
    header = ["round", "removed", "Kendall tau", *(f"KL, {figures.KL_NAMES[name]}" for name in compared)]
    header += ["perplexity"] * evaluated + ["units removed", "sub-models", "not finite"]
    rows = []
    for n, row in rounds:
        cells = [str(n), percent(row["sparsity"]), _or_dash(row["kendall_tau"], 2)]
        cells += [_or_dash(row.get("divergence", {}).get(name), 3) for name in compared]
        cells += [number(row.get("perplexity", report["perplexity"]["pruned"]))] * evaluated
        cells += [f"{row[count]:,}" for count in ("units_removed", "submodels", "dropped_submodels")]
        rows.append(cells)
    return Table(header, rows)


def _first_and_last(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The rounds that are shown, with their numbers."""
    numbered = list(enumerate(rounds, 1))
    half = MOST_ROUNDS // 2
    return numbered if len(numbered) <= MOST_ROUNDS else [*numbered[:half], *numbered[-half:]]


def _predicted(directory: RunDirectory, rounds: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """The first and the last round's predictions."""
    plots = []
    for n in dict.fromkeys((1, len(rounds))):
        found = predictions(directory, n) if rounds else None
        if found is not None:
            plots.append(_prediction(n, found, rounds[n - 1]["kendall_tau"]))
    return plots


def _prediction(n: int, found: Predictions, tau: float | None) -> Plot:
    chosen = figures.evenly(len(found.measured_M))
    rows = [[str(m + 1), f"{found.measured_M[m]:.6g}", f"{found.predicted_M[m]:.6g}"] for m in chosen]
    part = f" {len(chosen):,} of {len(found.measured_M):,} are shown." if len(chosen) < len(found.measured_M) else ""
    return Plot(
        f"Predicted and measured, round {n}",
        f"Each point is a sub-model, predicted by a regression that had not seen it; on the line it was exactly right. "
        f"Kendall tau {_or_dash(tau, 2)}: 1 is the right order, 0 a guess.{part}",
        drawn(f"predicted-{n}", lambda: figures.predicted(found)),
        Table(["sub-model", "measured utility", "predicted utility"], rows),
    )


def _ranked(sites: list[SiteRanks]) -> list[Plot]:
    if len(sites) < 2:
        return []
    rows = [
        [str(site.layer), site.kind, f"{site.num_units:,}", percent(site.prior), percent(site.importance)]
        for site in sites
    ]
    return [
        Plot(
            "What the measurements changed, round 1",
            "Each point is a site: the mean rank of its units among all of their kind, by the prior and by the "
            "regression. Above the line, measuring found a site more important than the prior thought.",
            drawn("ranks", lambda: figures.ranks(sites)),
            Table(["layer", "kind", "units measured", "rank by the prior", "rank by the regression"], rows, 2),
        )
    ]


def _provenance(path: Path, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    perplexity = report["perplexity"]
    facts = [("Run", str(path)), ("Model", str(report["config"]["model"]))]
    calibration, guard = report.get("calibration"), report.get("guard")
    facts += [("Calibration", describe_text(calibration) or str(calibration["name"]))] if calibration else []
    facts += [("Guard", str(guard["name"]))] if isinstance(guard, Mapping) and "name" in guard else []
    return facts + measured_with(report, perplexity["text"]["name"], perplexity)


def _or_dash(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
