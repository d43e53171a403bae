"""Everything that a finished sweep writes beside its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bonsai_core.errors import BonsaiError
from bonsai_core.rundir import write_atomically
from bonsai_core.sweep.page import page
from bonsai_core.sweep.plots import draw_all
from bonsai_core.sweep.record import Results
from bonsai_core.sweep.spec import Plot
from bonsai_core.sweep.table import markdown


def write_results(results: Results, plots: Sequence[Plot], directory: Path) -> None:
    """Write results.json, results.md, the plots and results.html.

    Raises:
        BonsaiError: the disk is full or not writable.
    """
    try:
        write_atomically(directory / "results.json", results.to_json().encode())
        write_atomically(directory / "results.md", markdown(results).encode())
        svgs = draw_all(plots, results, directory / "plots")
        write_atomically(directory / "results.html", page(results, svgs).encode())
    except OSError as error:
        raise BonsaiError(
            f"Cannot write the results to {directory}: {error.strerror or error}. The runs are safe; make room or "
            f"change the permissions, then run the same command again."
        ) from error
