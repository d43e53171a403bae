"""How time and memory of measuring grow with the work: sub-models, tokens of each, layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cost_process import apart
from cost_run import pruned
from cost_shapes import Shape, write_model
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bonsai_core.display import plotting
from bonsai_core.display.plotting import COLOURS, FAINT, GRID, INK, PAPER

SHAPE = Shape(4, 256, 8, 4, 768, 1024)
LENGTH = 256
SUBMODELS, WINDOWS = 20, 2
STUDIES = {
    "sub-models": (20, 40, 80, 120),
    "windows of 256 tokens per sub-model": (2, 4, 8, 12),
    "layers": (2, 4, 8, 16),
}
"""By what grows; all else is as in `SHAPE`, with `SUBMODELS` on `WINDOWS`."""
Points = Mapping[str, Sequence[tuple[int, float, float]]]
"""By what grows: how far, seconds of measuring, megabytes by which the process grew meanwhile."""


def study(settings: Mapping[str, str]) -> Points:
    """Measure all points, each in a process of its own."""
    common = {
        "prior_samples": 8,
        "held_out_samples": 2,
        "guard_samples": 0,
        "eval_samples": 2,
        "sequence_length": LENGTH,
        **settings,
    }
    points: dict[str, list[tuple[int, float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bonsai-cost-") as folder:
        for what, sizes in STUDIES.items():
            points[what] = []
            for size in sizes:
                submodels, windows, layers = (
                    size if what.startswith(name) else usual
                    for name, usual in (("sub-models", SUBMODELS), ("windows", WINDOWS), ("layers", SHAPE.layers))
                )
                model = Path(folder, str(layers))
                if not model.exists():
                    apart(write_model, replace(SHAPE, layers=layers), "float32", model)
                run = apart(pruned, {**common, "model": str(model), "submodels": submodels, "samples": windows})
                points[what].append((size, run.measure_s, run.measure_bytes / 1e6))
                print(f"{what} {size}: {run.measure_s:.2f} s, {run.measure_bytes / 1e6:.0f} MB", flush=True)
    return points


def draw(points: Points, path: Path) -> None:
    """One panel for each quantity and each way to grow, with least-squares lines."""
    with plotting.style(salt=path.stem):
        figure = Figure(figsize=(10.0, 5.4), layout="constrained", facecolor=PAPER)
        panels = figure.subplots(2, len(points))
        for column, (what, found) in enumerate(points.items()):
            x_N, seconds_N, megabytes_N = np.array(found, dtype=np.float64).T
            _panel(panels[0, column], x_N, seconds_N, what, "measuring takes, s")
            _panel(panels[1, column], x_N, megabytes_N, what, "memory grows by, MB")
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, x_N: Any, y_N: Any, what: str, label: str) -> None:
    slope, intercept = np.polyfit(x_N, y_N, 1)
    explained = np.corrcoef(x_N, y_N)[0, 1] ** 2
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    end_2 = np.array([0.0, x_N.max()])
    text = f"{intercept:.2g} + {slope:.2g} x, R² {explained:.3f}"
    axes.plot(end_2, intercept + slope * end_2, color=COLOURS[1], linewidth=1.6, label=text)
    axes.scatter(x_N, y_N, s=36, color=COLOURS[0], edgecolors=PAPER, zorder=3)
    axes.set_ylim(bottom=min(0.0, float(intercept)), top=1.25 * float(y_N.max()))
    plotting.name_axis(axes, "x", what)
    plotting.name_axis(axes, "y", label)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
