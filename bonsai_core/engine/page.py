"""The page of a run, with the adaptation that followed and the runtimes that take the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bonsai_core.adaptation.directory import adapted_report
from bonsai_core.pages.run import run_page
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory
from bonsai_core.runtimes.ways import known_ways


def page_of(
    directory: RunDirectory, report: Mapping[str, Any], registry: Registry, *, trust_remote_code: bool = False
) -> str:
    """The page. Of a checkpoint with code of its own it names runtimes only if that code may run."""
    adapted = adapted_report(directory.adapted_path)
    last = directory.path if adapted is None else directory.adapted_path
    ways, unopened = known_ways(last, registry, trust_remote_code=trust_remote_code)
    return run_page(directory, report, ways, adapted, unopened=unopened)
