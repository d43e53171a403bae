"""Writes a checkpoint for a runtime, and verifies it there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bonsai_core.config import PluginChoice
from bonsai_core.contracts import Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.model.loading.saved import has_own_code
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.files import atomic_file, atomic_folder
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.runner import MissingRuntimeError, running
from bonsai_core.runtimes.verify import Verification, compare, reference


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file or directory.
        commands: what users type to run it.
        verification: how it compares with transformers; None if that was not asked for.
        unverified: why it was not verified although it was asked for; None if it was.
    """

    path: Path
    commands: list[str]
    verification: Verification | None = None
    unverified: str | None = None


def export(
    model: str,
    format: str,
    out: Path | None = None,
    *,
    verify: bool = False,
    python: str | None = None,
    registry: Registry | None = None,
    trust_remote_code: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Exported:
    """Write a model in the format of a runtime.

    Args:
        model: a run directory, a checkpoint, a Hugging Face id or ``demo``.
        format: the name of an exporter, or ``NAME:VALUE`` with its variant, such as ``gguf:q8_0``.
        out: where it goes; None for beside the model, under a name made from the format.
        verify: load it in its runtime, in a fresh process, and compare it with transformers.
        python: the interpreter of the environment that has the runtime; None for this one's.

    Raises:
        BonsaiError: the format cannot hold the model, it exists already, or what was written is another model.
    """
    registry = registry or Registry()
    exporter = find_exporter(format, registry)
    checkpoint = open_checkpoint(model, registry, warn, trust_remote_code=trust_remote_code)
    path = out or default_path(model, format, exporter)
    if path.exists():
        raise BonsaiError(f"{path} exists already. Remove it, or give another --out.")
    refusal = exporter.refusal(checkpoint)
    if refusal is not None:
        able = [name for name, other in exporters(registry).items() if other.refusal(checkpoint) is None]
        raise BonsaiError(f"{exporter.runtime} cannot take {model}: {refusal} These formats can: {', '.join(able)}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (atomic_file if exporter.suffix else atomic_folder)(path) as partial:
        exporter.export(checkpoint, partial)
    exported = Exported(path, exporter.commands(checkpoint, path))
    if not verify:
        return exported
    if exporter.runner is None:
        return Exported(path, exported.commands, unverified=f"{exporter.name} has nothing that loads it by itself.")
    starts_with_bos = checkpoint.family is not None and checkpoint.family.starts_with_bos
    expected = reference(model, starts_with_bos=starts_with_bos, trust_remote_code=trust_remote_code)
    try:
        trusted = trust_remote_code or has_own_code(path)
        with running(exporter.runner, path, python=python, trust_remote_code=trusted) as loaded:
            found = compare(loaded, expected, exporter.tolerance(checkpoint))
    except MissingRuntimeError as error:
        return Exported(path, exported.commands, unverified=f"{error} Where {exporter.runtime} is, --python names it.")
    return Exported(path, exported.commands, found)


def find_exporter(format: str, registry: Registry) -> Exporter:
    """The exporter for ``NAME`` or ``NAME:VALUE``.

    Raises:
        BonsaiError: there is none, or it has no such variant.
    """
    name, _, value = format.partition(":")
    variant = cast(type[Exporter], registry.component_class("exporter", name)).variant
    if value and not variant:
        raise BonsaiError(f"The format {name} has no variants, so it cannot be {format}.")
    options = {variant: value} if value else {}
    return cast(Exporter, registry.create("exporter", PluginChoice(name=name, options=options)))


def exporters(registry: Registry) -> dict[str, Exporter]:
    """All installed exporters by name, with their default options."""
    return {offer.name: find_exporter(offer.name, registry) for offer in registry.offers("exporter")}


def default_path(model: str, format: str, exporter: Exporter) -> Path:
    """Beside a run's checkpoint or a directory; for hub ids in the working directory."""
    provenance = find_provenance(model)
    source = Path(provenance.source)
    parent = source.parent if source.is_dir() else Path()
    return parent / f"{source.name}-{format.replace(':', '-')}{exporter.suffix}"
