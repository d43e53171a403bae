"""The page of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.errors import BonsaiError
from bonsai_core.pages.adaptation import adapt_page
from bonsai_core.pages.ways import Way
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.ways import find_ways


def page_of(directory: AdaptDirectory, report: Mapping[str, Any], registry: Registry) -> str:
    """The page; without runtimes where the checkpoint has been moved or is damaged."""
    ways: list[Way] = []
    with suppress(BonsaiError):
        ways = find_ways(directory.path, registry)
    return adapt_page(directory.path, report, ways, AdaptConfig)
