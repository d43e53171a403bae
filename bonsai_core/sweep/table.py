"""The results as one table: cells for the terminal and the page, and Markdown to paste."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bonsai_core.display.printable import visible
from bonsai_core.sweep.quantities import MEASURED, QUANTITIES, show_value
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.results import Group, Row, Stat, dense_perplexity, grouped

PER_SEED = "per seed"


@dataclass(frozen=True)
class Cells:
    """A table as text; the first `num_names` columns are names, the rest numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int


def cells(results: Results) -> Cells:
    """One row per arm and point, over seeds; before them the dense model, where all runs share one."""
    groups = _with_rounds(results.rows)
    settings = list(dict.fromkeys(name for group in groups for name in group.point))
    dense = dense_perplexity(results.rows)
    means = {"adapted_perplexity": "adapted perplexity", "sparsity": "sparsity reached, %"}
    means |= {"speedup": "speed-up, times", "prune_s": "pruning, s", "kendall_tau": "Kendall tau"}
    if dense is None:
        means = {"dense_perplexity": "dense perplexity", **means}
    means = {name: label for name, label in means.items() if any(row.value(name) is not None for row in results.rows)}
    names = ["arm", *(name.replace("_", " ") for name in settings)]
    rows = []
    if dense is not None:
        rows.append(["dense", *("" for _ in settings), QUANTITIES[MEASURED].show(dense)])
    for group in groups:
        row = [group.arm if group.round is None else f"{group.arm}, round {group.round}"]
        row += [show_value(group.point[name]) if name in group.point else "" for name in settings]
        if group.rows:
            row += [mean_and_deviation(group.stat(MEASURED)), _per_seed(group)]
            row += [QUANTITIES[name].show(group.stat(name).mean) for name in means]
        else:
            row.append("failed")
        rows.append(row)
    header = [*names, "perplexity, mean ± sd", PER_SEED, *means.values()]
    return Cells(header, [[*row, *[""] * (len(header) - len(row))] for row in rows], len(names))


def _with_rounds(rows: Sequence[Row]) -> list[Group]:
    """The runs' ends, each after its evaluated rounds; the last round is the end."""
    rounds = [group for group in grouped(rows, rounds=True) if group.round is not None]
    groups: list[Group] = []
    for end in grouped(rows):
        own = [group for group in rounds if (group.arm, group.point) == (end.arm, end.point)]
        groups += [*own[:-1], end]
    return groups


def markdown(results: Results) -> str:
    """Title, table and provenance, to paste into a document."""
    table, failed = cells(results), [f"- {_text(failure)}" for failure in failures(results)]
    about = [_text(results.about.strip(), lines=True), ""] if results.about else []
    lines = [f"## {_text(results.title)}", "", *about, _line(table.header)]
    lines.append(_line(["---" if i < table.num_names else "---:" for i in range(len(table.header))]))
    lines += [*map(_line, table.rows), "", *failed, *([""] if failed else [])]
    facts = [f"`{text}`" if name == "Command" else f"{name}: {_text(text)}" for name, text in results.provenance()]
    return visible("\n".join([*lines, f"({'; '.join(facts)}.)", ""]), lines=True)


def failures(results: Results) -> list[str]:
    """What failed, and why."""
    return [f"{row.directory} failed: {' '.join(row.error.split())}" for row in results.rows if row.error is not None]


def mean_and_deviation(stat: Stat) -> str:
    """``17.53 ± 0.42``; without a deviation for one seed."""
    show = QUANTITIES[MEASURED].show
    return show(stat.mean) if stat.sd is None else f"{show(stat.mean)} ± {show(stat.sd)}"


def _per_seed(group: Group) -> str:
    shown = [QUANTITIES[MEASURED].show(value) for value in group.stat(MEASURED).values]
    return ", ".join([*shown, *["failed"] * group.failed]) if len(shown) + group.failed > 1 else ""


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(_text(text).replace("|", r"\|") for text in row) + " |"


def _text(text: str, *, lines: bool = False) -> str:
    """As Markdown shows it: without HTML, and on one line unless `lines` stay."""
    return visible(text, lines=lines).replace("<", "&lt;")
