"""What `bonsai export` shows, and in what a checkpoint runs."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from bonsai_core.cli.printing import plain
from bonsai_core.engine.exports import read_exported
from bonsai_core.registry.registry import Registry
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.export import Exported
from bonsai_core.runtimes.formats import default_path, exporters, find_exporter
from bonsai_core.runtimes.verify import Verification


def export_view(exported: Exported) -> RenderableType:
    """What was written, whether it is the model, and how to run it."""
    lines = [f"wrote {exported.path}", *_outcome(exported)]
    lines += [f"pushed to {exported.pushed}"] if exported.pushed else []
    lines += ["run it with:", *(f"    {command}" for command in exported.commands)]
    return Group(*map(plain, lines))


def runtime_view(run: Path, registry: Registry) -> RenderableType:
    """In which runtimes the checkpoint of a run runs, with the commands, and in which it does not, and why.

    Raises:
        BonsaiError: there is no checkpoint, or it or the record of what was exported is damaged.
    """
    checkpoint = open_checkpoint(str(run), registry, lambda text: None)
    exported = read_exported(run, checkpoint, registry)
    as_saved: list[tuple[str, list[str]]] = []
    runs: list[tuple[str, list[str]]] = []
    refused: list[tuple[str, list[str]]] = []
    for format, exporter in (exporters(registry) | {each: find_exporter(each, registry) for each in exported}).items():
        reason, done = exporter.refusal(checkpoint), exported.get(format)
        if reason is not None:
            refused.append((exporter.runtime, [reason]))
        elif done is not None:
            runs.append((exporter.runtime, [*done.commands, *_outcome(done)]))
        elif exporter.as_saved(checkpoint):
            as_saved.append((exporter.runtime, exporter.commands(checkpoint, checkpoint.path)))
        else:
            commands = exporter.commands(checkpoint, default_path(str(run), format, exporter))
            runs.append((exporter.runtime, [f"bonsai export {shlex.quote(str(run))} --format {format}", *commands]))
    lines = [*_section("It runs in", as_saved + runs), *_section("It does not run in", refused)]
    return Group(Text(""), *map(plain, lines))


def _verified_line(found: Verification) -> str:
    """How it compares with transformers, in a sentence."""
    if found.tolerance is None:  # and with other weights, texts soon differ
        losses = f"{found.loss:.4f} nats per token, {found.reference_loss:.4f} in transformers (float32)"
        return f"runs in {found.runtime}: loss on a short text {losses}"
    return (
        f"verified in {found.runtime}: {found.tokens} log-probabilities are within {found.difference:.1g} nats of "
        f"transformers (float32; allowed {found.tolerance:g}); {found.same_tokens} of {found.new_tokens} generated "
        f"tokens are the same"
    )


def _outcome(exported: Exported) -> list[str]:
    """Whether it was verified, as a line; none if nobody asked."""
    if exported.verification is not None:
        return [_verified_line(exported.verification)]
    if exported.checked is not None:
        return [f"verified: {exported.checked}"]
    return [] if exported.unverified is None else [f"not verified: {exported.unverified}"]


def _section(title: str, rows: list[tuple[str, list[str]]]) -> list[str]:
    width = max((len(runtime) for runtime, _ in rows), default=0)
    lines = [title] if rows else []
    for runtime, texts in rows:
        lines += [f"  {runtime if number == 0 else '':<{width}}  {text}" for number, text in enumerate(texts)]
    return lines
