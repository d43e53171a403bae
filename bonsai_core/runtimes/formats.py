"""Exporters by the names that users give: a format, or a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bonsai_core.config import PluginChoice
from bonsai_core.contracts import Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.registry.registry import Registry
from bonsai_core.sources import user_path


def find_exporter(format: str, registry: Registry, options: Mapping[str, Any] | None = None) -> Exporter:
    """The exporter for ``NAME`` or ``NAME:VALUE``, where VALUE is of its variant, with other options of its own.

    Raises:
        BonsaiError: there is none, it has no such variant, or an option is unknown or has the wrong type.
    """
    name, _, value = format.partition(":")
    variant = cast(type[Exporter], registry.component_class("exporter", name)).variant
    if value and not variant:
        raise BonsaiError(f"The format {name} has no variants, so it cannot be {format}.")
    given = {**(options or {}), **({variant: value} if value else {})}
    return cast(Exporter, registry.create("exporter", PluginChoice(name=name, options=given)))


def exporters(registry: Registry) -> dict[str, Exporter]:
    """All installed exporters by name, with their default options."""
    return {offer.name: find_exporter(offer.name, registry) for offer in registry.offers("exporter")}


def format_for(name: str, registry: Registry) -> str:
    """The format that a user means by a runtime (``vllm``, ``llama.cpp:q8_0``) or by the format itself.

    Raises:
        BonsaiError: it is neither; the message lists both.
    """
    first, colon, value = name.partition(":")
    installed = exporters(registry)
    by_runtime = {exporter.runtime: format for format, exporter in reversed(installed.items())}
    format = first if first in installed else by_runtime.get(first)
    if format is None:
        raise BonsaiError(
            f"There is no runtime or format {first!r}. Runtimes: {', '.join(sorted(by_runtime))}. "
            f"Formats: {', '.join(installed)}."
        )
    return f"{format}{colon}{value}"


def default_path(model: str, format: str, exporter: Exporter) -> Path:
    """Where a model is exported to: beside its directory; for hub ids, in the working directory."""
    source = user_path(find_provenance(model).source)
    if source.name in ("", ".."):  # as `.` is
        source = source.resolve()
    parent = source.parent if source.is_dir() else Path()
    return parent / f"{source.name}-{format.replace(':', '-')}{exporter.suffix}"
