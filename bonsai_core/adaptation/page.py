"""The page of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.pages.adaptation import adapt_page
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.ways import known_ways


def page_of(
    directory: AdaptDirectory, report: Mapping[str, Any], registry: Registry, *, trust_remote_code: bool = False
) -> str:
    """The page. Of a checkpoint with code of its own it names runtimes only if that code may run."""
    ways, unopened = known_ways(directory.path, registry, trust_remote_code=trust_remote_code)
    return adapt_page(directory.path, report, ways, AdaptConfig, unopened=unopened)
