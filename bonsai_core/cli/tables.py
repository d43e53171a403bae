"""What people see: tables drawn from report.json, and listings of plugins and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bonsai_core.cli.progress import duration
from bonsai_core.contracts import Family
from bonsai_core.families import HEADER, family_rows
from bonsai_core.registry import KINDS, Registry
from bonsai_core.units import UnitTable

BLOCKS = " ▁▂▃▄▅▆▇█"


def report_view(report: Mapping[str, Any], directory: Path) -> RenderableType:
    """The whole report as tables."""
    return Group(_before_and_after(report), _layers(report), _rounds(report), _cost(report), _next_steps(directory))


def plugin_view(registry: Registry, kind: str | None) -> RenderableType:
    """What is installed, by kind; plugins with problems below."""
    table = Table("kind", "name", "what it is", "from", box=None, header_style="bold")
    for each in KINDS if kind is None else (kind,):
        for offer in registry.offers(each):
            table.add_row(each, offer.name, escape(offer.summary), escape(offer.source.split(" ")[0]))
    problems = [Text(f"Problem: {problem}", style="yellow") for problem in registry.problems]
    return Group(table, *problems)


def family_view(families: Sequence[Family]) -> Table:
    """The model families, and what can be removed from each."""
    table = Table(*HEADER, box=None, header_style="bold")
    for row in family_rows(families):
        table.add_row(*map(escape, row))
    return table


def unit_view(table: UnitTable) -> RenderableType:
    """The sites of a model and what their units cost."""
    view = Table("site", "units", "parameters per unit", "share of the decoder", box=None, header_style="bold")
    for column in view.columns[1:]:
        column.justify = "right"
    for site in table:
        share = site.num_units * site.unit_params / table.decoder_params
        view.add_row(site.name, f"{site.num_units:,}", f"{site.unit_params:,}", f"{share:.2%}")
    total = f"{len(table):,} units, {table.decoder_params:,} decoder parameters of {table.total_params:,}"
    return Group(view, Text(total))


def _before_and_after(report: Mapping[str, Any]) -> Table:
    table = Table("", "dense", "pruned", "change", box=None, header_style="bold", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    ppl = report["perplexity"]
    name = f"perplexity ({ppl['text']['name']}, {ppl['windows']} x {ppl['sequence_length']:,} tokens)"
    _row(table, name, ppl["dense"], ppl["pruned"], "{:.2f}")
    _row(table, "parameters", report["parameters"]["dense"], report["parameters"]["pruned"], "{:,}")
    weights = report["weight_bytes"]
    _row(table, "weights, MB", weights["dense"] / 1e6, weights["pruned"] / 1e6, "{:.1f}")
    latency = report["latency"] or {}
    if "dense_s" in latency:
        name = f"forward of {latency['tokens']:,} tokens, ms"
        _row(table, name, latency["dense_s"] * 1e3, latency["pruned_s"] * 1e3, "{:.1f}")
    sparsity = report["sparsity"]
    table.add_row("sparsity of the decoder layers", "", f"{sparsity['decoder']:.2%}", "")
    table.add_row("sparsity of the whole model", "", f"{sparsity['whole_model']:.2%}", "")
    return table


def _row(table: Table, name: str, dense: float | None, pruned: float | None, style: str) -> None:
    shown = ["not finite" if value is None else style.format(value) for value in (dense, pruned)]
    change = f"x {pruned / dense:.2f}" if dense and pruned is not None else ""
    table.add_row(escape(name), *shown, change)


def _layers(report: Mapping[str, Any]) -> RenderableType:
    """One column per layer: how much of it was kept."""
    lines = []
    for kind in report["layers"][0]:
        shares = [layer[kind]["kept"] / layer[kind]["dense"] for layer in report["layers"]]
        bars = "".join(BLOCKS[round(share * (len(BLOCKS) - 1))] for share in shares)
        lines.append(Text(f"\nkept {kind:<10} {bars}   {min(shares):.0%} to {max(shares):.0%}, layer 0 first", end=""))
    return Group(*lines, Text(""))


def _rounds(report: Mapping[str, Any]) -> Table:
    """A line per round; KL to the dense model and perplexity after it where they were measured."""
    evaluated, compared = report["config"]["eval_rounds"], any("divergence" in row for row in report["rounds"])
    names = ["round", "sparsity", "units removed", "sub-models", "dropped", "repaired", "Kendall tau"]
    names += ["KL, measured on", "KL, held out"] if compared else []
    names += ["perplexity"] if evaluated else []
    table = Table(*names, box=None, header_style="bold")
    for column in table.columns:
        column.justify = "right"
    for number, row in enumerate(report["rounds"], 1):
        tau = "-" if row["kendall_tau"] is None else f"{row['kendall_tau']:.2f}"
        counts = (f"{row[name]:,}" for name in ("units_removed", "submodels", "dropped_submodels"))
        cells = [str(number), f"{row['sparsity']:.2%}", *counts, "yes" if row.get("repaired_submodels") else "no", tau]
        if compared:
            kl = row.get("divergence", {})
            cells += ["-" if kl.get(on) is None else f"{kl[on]:.3f}" for on in ("measured", "held_out")]
        if evaluated:
            after = row.get("perplexity", report["perplexity"]["pruned"])  # the last round's is the pruned model's
            cells.append("not finite" if after is None else f"{after:.2f}")
        table.add_row(*cells)
    return table


def _cost(report: Mapping[str, Any]) -> Text:
    stages = ", ".join(f"{name} {duration(seconds)}" for name, seconds in report["seconds"].items())
    total = duration(sum(report["seconds"].values()))
    peak = report["memory"]["peak_bytes"] / 1e6
    return Text(f"\ntime {total}{f' ({stages})' if stages else ''}; peak memory of pruning {peak:,.0f} MB")


def _next_steps(directory: Path) -> Text:
    return Text(f"checkpoint {directory / 'model'}; report {directory / 'report.json'}")
