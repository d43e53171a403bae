"""In which runtimes a checkpoint runs."""

from __future__ import annotations

import shlex
from pathlib import Path

from bonsai_core.contracts import Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.pages.ways import Way
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import Exported
from bonsai_core.runtimes.formats import default_path, exporters, find_exporter
from bonsai_core.runtimes.record import read_exported
from bonsai_core.runtimes.verify import Verification


def known_ways(run: Path, registry: Registry, *, trust_remote_code: bool = False) -> tuple[list[Way], str]:
    """What `find_ways` finds; of a checkpoint that was moved, is damaged or may not be opened, why."""
    try:
        return find_ways(run, registry, trust_remote_code=trust_remote_code), ""
    except BonsaiError as error:
        return [], str(error)


def find_ways(run: Path, registry: Registry, *, trust_remote_code: bool = False) -> list[Way]:
    """The runtimes that run the checkpoint of a run, first those that take it as it is; then those that refuse it.

    Args:
        trust_remote_code: allow modeling code that comes with the model.

    Raises:
        BonsaiError: there is no checkpoint, or it or the record of what was exported is damaged.
    """
    checkpoint = open_checkpoint(str(run), registry, lambda text: None, trust_remote_code=trust_remote_code)
    exported = read_exported(run, checkpoint, registry)
    as_saved: list[Way] = []
    others: list[Way] = []
    refused: list[Way] = []
    for format, exporter in (exporters(registry) | {each: find_exporter(each, registry) for each in exported}).items():
        reason, done = exporter.refusal(checkpoint), exported.get(format)
        if reason is not None:
            refused.append(Way(exporter.runtime, refusal=reason))
        elif done is not None:
            others.append(Way(exporter.runtime, tuple(done.commands), outcome_of(done)))
        elif exporter.as_saved(checkpoint):
            as_saved.append(Way(exporter.runtime, tuple(exporter.commands(checkpoint, checkpoint.path))))
        else:
            commands = exporter.commands(checkpoint, default_path(str(run), format, exporter))
            first = f"bonsai export {shlex.quote(str(run))} --format {format}"
            others.append(Way(exporter.runtime, (first, *commands), needs=_missing(exporter)))
    return [*as_saved, *others, *refused]


def _missing(exporter: Exporter) -> str:
    """What an export needs and is not here; "" if nothing is missing."""
    try:
        exporter.check_ready()
    except BonsaiError as error:
        return str(error)
    return ""


def outcome_of(exported: Exported) -> str:
    """Whether it was verified, in a sentence; "" if nobody asked."""
    if exported.verification is not None:
        return _verified(exported.verification)
    if exported.checked is not None:
        return f"verified: {exported.checked}"
    return "" if exported.unverified is None else f"not verified: {exported.unverified}"


def _verified(found: Verification) -> str:
    """How it compares with transformers."""
    if found.tolerance is None:  # and with other weights, texts soon differ
        losses = f"{found.loss:.4f} nats per token, {found.reference_loss:.4f} in transformers (float32)"
        return f"runs in {found.runtime}: loss on a short text {losses}"
    return (
        f"verified in {found.runtime}: {found.tokens} log-probabilities are within {found.difference:.1g} nats of "
        f"transformers (float32; allowed {found.tolerance:g}); {found.same_tokens} of {found.new_tokens} generated "
        f"tokens are the same"
    )
