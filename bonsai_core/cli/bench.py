"""What `bonsai bench` shows: a bar while it times, then a table for each runtime."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bonsai_core.cli.bars import Bars
from bonsai_core.cli.printing import LONGEST_NAME, WideTable, plain, print_note
from bonsai_core.display.durations import duration
from bonsai_core.display.printable import last_parts, visible
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.bench import bench
from bonsai_core.runtimes.bench_config import BenchConfig


def bench_with_progress(config: BenchConfig, registry: Registry) -> dict[str, Any]:
    """Time, with a bar and notes on stderr."""
    console = Console(stderr=True)
    bars, start = Bars(), time.monotonic()
    with Live(bars(None, ""), console=console, refresh_per_second=4, transient=True) as display:

        def show(what: str, share: float) -> None:
            left = (time.monotonic() - start) * (1 - share) / share if share else 0.0
            shown = f"about {duration(left)} left" if left else ""
            display.update(bars(share, shown, visible(what)))

        return bench(config, registry=registry, warn=lambda text: print_note(console, text), progress=show)


def bench_view(results: Mapping[str, Any]) -> RenderableType:
    """A table for each runtime and format."""
    tables: list[RenderableType] = []
    names = last_parts(model["model"] for row in results["results"] for model in row["models"])
    for (runtime, format_), rows in itertools.groupby(results["results"], lambda row: (row["runtime"], row["format"])):
        cells = []
        for row in rows:
            size = f"{row['batch']:,} x {row['prompt_tokens']:,}"
            for model in row["models"]:
                shown = visible(names[model["model"]] + (" (dense)" if model["dense"] else ""), most=LONGEST_NAME)
                cells.append([f"{shown}\n{size}", *_cells(model)])
        tables += [plain(f"{runtime} ({format_})"), WideTable(HEADINGS, cells)]
    settings = results["settings"]
    threads = f", {settings['threads']} threads" if settings["threads"] else ""
    how = (
        f"medians, and quartiles below them, of {settings['repeats']} turns, {settings['new_tokens']} new tokens, on "
        f"{results['device']}, {results['dtype']}{threads}; speed-up: dense over pruned in the same turn"
    )
    return Group(*tables, Text(visible(how)))


HEADINGS = (
    "model,\nsequences x prompt",
    "prefill, ms",
    "decode, ms\nper token",
    "speed-up,\nprefill",
    "speed-up,\ndecode",
)


def _cells(model: Mapping[str, Any]) -> list[str]:
    times = [_spread(model["prefill_spread_s"], 1e3, "{:,.1f}"), _spread(model["decode_spread_s"], 1e3, "{:,.2f}")]
    if model["dense"]:
        return [*times, "", ""]
    return [*times, *(_spread(model["speedup"][phase], 1.0, "{:.2f}") for phase in ("prefill", "decode"))]


def _spread(values: Mapping[str, float], factor: float, style: str) -> str:
    median, low, high = (style.format(values[which] * factor) for which in ("median", "low", "high"))
    return f"{median}\n{low} to {high}"
