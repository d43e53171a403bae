"""What people see: tables drawn from report.json, and listings of plugins and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bonsai_core.cli.printing import LONGEST_NAME, WideTable, name, number_table, plain, ratio, text_table
from bonsai_core.contracts import Family
from bonsai_core.display.durations import duration
from bonsai_core.display.printable import visible
from bonsai_core.pages.verdict import Verdict, judge
from bonsai_core.registry.family_table import HEADER, family_rows
from bonsai_core.registry.registry import KINDS, Registry, clash_text, distribution_of
from bonsai_core.rundir.calibration_text import describe_text
from bonsai_core.settings.quantities import TARGETS
from bonsai_core.units import UnitTable

Item = TypeVar("Item")
BLOCKS = " ▁▂▃▄▅▆▇█"
MAX_LAYERS = 200  # in a line of bars
MAX_KINDS = 12  # of unit that have a line of bars, and of stage whose time is listed
MAX_ROUNDS = 60  # in the table


def report_view(report: Mapping[str, Any], directory: Path) -> RenderableType:
    """The whole report as tables, from the verdict on."""
    verdict = judge(report)
    return Group(
        verdict_line(verdict),
        _before_and_after(report),
        *_times_noted(report),
        *_budget(report),
        *map(plain, filter(None, [describe_text(report.get("calibration"))])),
        _layers(report),
        _rounds(report),
        *cautions(verdict),
        _cost(report),
        verified(report),
        plain(f"checkpoint {directory / 'model'}; report {directory / 'report.json'}{page_in(directory)}"),
    )


def verdict_line(verdict: Verdict) -> Text:
    """What a run or an adaptation came to, above its tables."""
    return Text(f"{visible(verdict.title, most=LONGEST_NAME)}: {verdict.words}", style="bold")


def cautions(verdict: Verdict) -> list[Text]:
    """What the reader should know of it."""
    return [Text(visible(caution), style="yellow") for caution in verdict.cautions]


def page_in(directory: Path) -> str:
    """Where the page of a run or an adaptation is, to follow the other paths; empty if there is none."""
    page = directory / "report.html"
    return f"; page {page}" if page.is_file() else ""


def plugin_view(registry: Registry, kind: str | None) -> RenderableType:
    """What is installed, by kind; plugins with problems and names that several offer below."""
    table = text_table("kind", "name", "what it is", "from")
    for each in KINDS if kind is None else (kind,):
        for offer in registry.offers(each):
            table.add_row(each, plain(offer.name), plain(offer.summary), plain(distribution_of(offer.source)))
    clashes = [clash_text(rows) for rows in registry.clashes() if kind in (None, rows[0].kind)]
    problems = [
        Text(f"Problem: {visible(problem, lines=True)}", style="yellow") for problem in (*registry.problems, *clashes)
    ]
    return Group(table, *problems)


def family_view(families: Sequence[Family]) -> Table:
    """The model families, and what can be removed from each."""
    slicer, _, models, *what = HEADER
    table = text_table(slicer, models, "what can be removed")
    for family, title, types, *units, note in family_rows(families):
        lines = [
            f"{shapes.partition(' (')[0].removeprefix('units with ')}: {some or 'nothing'}"
            for shapes, some in zip(what, units, strict=False)
        ]
        table.add_row(
            plain(family), plain(types), plain("\n".join([title, *lines, *([note] if note else [])]), lines=True)
        )
    return table


def unit_view(table: UnitTable) -> RenderableType:
    """The sites of a model and what their units cost."""
    view = number_table("site", "units", "parameters per unit", "share of the decoder")
    for site in table:
        share = site.num_units * site.unit_params / table.decoder_params
        view.add_row(plain(site.name), f"{site.num_units:,}", f"{site.unit_params:,}", f"{share:.2%}")
    total = f"{len(table):,} units, {table.decoder_params:,} decoder parameters of {table.total_params:,}"
    return Group(view, Text(total))


def _before_and_after(report: Mapping[str, Any]) -> Table:
    table = number_table("", "dense", "pruned", "change")
    ppl = report["perplexity"]
    what = f"perplexity ({ppl['text']['name']}, {ppl['windows']} x {ppl['sequence_length']:,})"
    _row(table, what, ppl["dense"], ppl["pruned"], "{:.2f}")
    _row(table, "parameters", report["parameters"]["dense"], report["parameters"]["pruned"], "{:,}")
    weights = report["weight_bytes"]
    _row(table, "weights, MB", weights["dense"] / 1e6, weights["pruned"] / 1e6, "{:.1f}")
    latency = report["latency"] or {}
    if "dense_s" in latency:
        _latency(table, latency)
    sparsity = report["sparsity"]
    table.add_row("sparsity of decoder layers", "", f"{sparsity['decoder']:.2%}", "")
    table.add_row("sparsity of whole model", "", f"{sparsity['whole_model']:.2%}", "")
    return table


def _times_noted(report: Mapping[str, Any]) -> list[Text]:
    """What the change of a time is, where it need not be the ratio of the two medians beside it."""
    timed = (report["latency"] or {}).get("phases")
    return [Text("x of times: median over turns of both, with quartiles")] if timed else []


def _budget(report: Mapping[str, Any]) -> list[Text]:
    """What was to be reached and what was, where that is not a sparsity."""
    budget = report.get("budget") or {"of": None}
    if budget["of"] not in TARGETS:
        return []
    target = TARGETS[budget["of"]]
    dense, most, predicted, measured = (
        "not measured" if budget[name] is None else target.quantity.shown(budget[name])
        for name in ("dense", "target", "predicted", "measured")
    )
    line = f"budget {visible(budget['option'])}: {target.words}, dense {dense}, target {most}, predicted {predicted}, "
    return [Text(f"{line}measured {measured}")]


def _row(table: Table, what: str, dense: float | None, pruned: float | None, style: str) -> None:
    shown = ["not finite" if value is None else style.format(value) for value in (dense, pruned)]
    table.add_row(name(what), *shown, ratio(dense, pruned))


def _latency(table: Table, latency: Mapping[str, Any]) -> None:
    """Medians, and how many times the dense model's time it takes, with the quartiles of that over the turns."""
    phases, tokens = latency.get("phases"), f"{latency['tokens']:,} tokens"
    if not phases:  # of an earlier version
        _row(table, f"forward of {tokens}, ms", latency["dense_s"] * 1e3, latency["pruned_s"] * 1e3, "{:.1f}")
        return
    for what, phase in ((f"prefill of {tokens}, ms", phases["prefill"]), ("decode, ms per token", phases["decode"])):
        cells = (f"{phase[model] * 1e3:.1f}" for model in ("dense_s", "pruned_s"))
        speedup = phase["speedup"]
        spread = f"({1 / speedup['high']:.2f} to {1 / speedup['low']:.2f})"
        table.add_row(name(what), *cells, f"x {1 / speedup['median']:.2f} {spread}")


def _layers(report: Mapping[str, Any]) -> RenderableType:
    """One column per layer: how much of it was kept; blank where a layer has no such units."""
    layers = report["layers"]
    kinds = list(dict.fromkeys(kind for layer in layers for kind in layer))
    lines = [Text("\n" + _bars(kind, layers), end="") for kind in kinds[:MAX_KINDS]]
    if len(kinds) > MAX_KINDS:
        lines.append(Text(f"\n... and {len(kinds) - MAX_KINDS:,} other kinds of unit", end=""))
    return Group(*lines, Text(""))


def _bars(kind: str, layers: Sequence[Mapping[str, Any]]) -> str:
    counts = [layer.get(kind) for layer in layers]
    kept = [units["kept"] / units["dense"] if units and units["dense"] else None for units in counts]
    known = [fraction for fraction in kept if fraction is not None] or [0.0]
    bars = [" " if fraction is None else BLOCKS[round(fraction * (len(BLOCKS) - 1))] for fraction in kept]
    first, last, between = _ends(bars, MAX_LAYERS)
    gap = f" ... {between:,} layers between ... " if between else ""
    shown = f"{''.join(first)}{gap}{''.join(last)}   {min(known):.0%} to {max(known):.0%}, layer 0 first"
    return f"kept {visible(kind, most=LONGEST_NAME):<10} {shown}"


def _rounds(report: Mapping[str, Any]) -> RenderableType:
    """A line per round, with KL to the dense model and perplexity where they were measured."""
    evaluated, compared = report["config"]["eval_rounds"], any("divergence" in row for row in report["rounds"])
    names = ["round", "sparsity", "units\nremoved", "sub-models", "dropped", "repaired", "Kendall\ntau"]
    names += ["KL,\nmeasured\non", "KL,\nheld\nout", "KL,\nguard"] if compared else []
    names += ["perplexity"] if evaluated else []
    rows = [[str(n), *_round(row, report, compared, evaluated)] for n, row in enumerate(report["rounds"], 1)]
    first, last, between = _ends(rows, MAX_ROUNDS)
    gap = [["...", *[""] * (len(names) - 1)]] if between else []
    table = WideTable(names, [*first, *gap, *last], gap=1)
    notes = [Text(f"... {between:,} rounds between; bonsai report --json has all")] if between else []
    return Group(table, *notes)


def _round(row: Mapping[str, Any], report: Mapping[str, Any], compared: bool, evaluated: bool) -> list[str]:
    tau = "-" if row["kendall_tau"] is None else f"{row['kendall_tau']:.2f}"
    counts = (f"{row[count]:,}" for count in ("units_removed", "submodels", "dropped_submodels"))
    cells = [f"{row['sparsity']:.2%}", *counts, "yes" if row.get("repaired_submodels") else "no", tau]
    if compared:
        kl = row.get("divergence", {})
        cells += ["-" if kl.get(on) is None else f"{kl[on]:.3f}" for on in ("measured", "held_out", "guard")]
    if evaluated:
        after = row.get("perplexity", report["perplexity"]["pruned"])  # the last round's is the pruned model's
        cells.append("not finite" if after is None else f"{after:.2f}")
    return cells


def _ends(items: Sequence[Item], limit: int) -> tuple[Sequence[Item], Sequence[Item], int]:
    """The first and the last items, and how many are between them; at most `limit` items are all the first."""
    if len(items) <= limit:
        return items, [], 0
    return items[: limit // 2], items[-(limit // 2) :], len(items) - limit // 2 * 2


def _cost(report: Mapping[str, Any]) -> Text:
    peak = report["memory"]["peak_bytes"] / 1e6
    return Text(f"\n{times(report['seconds'])}; peak memory of pruning {peak:,.0f} MB")


def times(seconds: Mapping[str, float]) -> str:
    """The time it took, and in which stages."""
    stages = [f"{visible(stage, most=LONGEST_NAME)} {duration(s)}" for stage, s in seconds.items()]
    if len(stages) > MAX_KINDS:
        stages[MAX_KINDS:] = [f"{len(stages) - MAX_KINDS:,} other stages"]
    parts = f" ({', '.join(stages)})" if stages else ""
    return f"time {duration(sum(seconds.values()))}{parts}"


def verified(report: Mapping[str, Any]) -> Text:
    """Whether the checkpoint was opened again, and how."""
    outcome = report["verified"]
    if "skipped" in outcome:
        return plain(f"checkpoint not verified: {outcome['skipped']}")
    ways = " and ".join(f"with {way}" for way in outcome["loaded"])
    return plain(f"checkpoint verified: loaded {ways}, it has the loss that was measured")
