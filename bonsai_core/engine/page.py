"""The page of a run, with what became of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bonsai_core.adaptation.directory import adapted_report
from bonsai_core.errors import BonsaiError
from bonsai_core.pages.run import run_page
from bonsai_core.pages.ways import Way
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory
from bonsai_core.runtimes.ways import find_ways


def page_of(directory: RunDirectory, report: Mapping[str, Any], registry: Registry) -> str:
    """The page; without runtimes where the checkpoint has been moved or is damaged."""
    adapted = adapted_report(directory.adapted_path)
    ways: list[Way] = []
    with suppress(BonsaiError):
        ways = find_ways(directory.path if adapted is None else directory.adapted_path, registry)
    return run_page(directory, report, ways, adapted)
