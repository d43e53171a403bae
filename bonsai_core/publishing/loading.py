"""The commands that load a checkpoint, by runtime, and its card beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bonsai_core.contracts import Checkpoint, Exporter
from bonsai_core.publishing.card import CARD_NAME, PLACEHOLDER, Loading, render_card
from bonsai_core.publishing.facts import facts_of
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import RunDirectory
from bonsai_core.rundir.files import write_atomically
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import exporters


def ways_to_load(checkpoint: Checkpoint, registry: Registry, name: str = PLACEHOLDER) -> list[Loading]:
    """How each runtime that takes a checkpoint loads it, those first that load it as it is."""
    return sorted(_ways(checkpoint, registry, name), key=lambda way: way.exported)


def _ways(checkpoint: Checkpoint, registry: Registry, name: str) -> Iterator[Loading]:
    for format, exporter in exporters(registry).items():
        if exporter.runner is None or exporter.refusal(checkpoint) is not None:  # nothing loads it, or not this one
            continue
        if exporter.as_saved(checkpoint):
            yield Loading(exporter.runtime, commands_for(exporter, checkpoint, name))
        else:
            out = f"{Path(name).name}-{format}{exporter.suffix}"
            export = f"bonsai export {name} --format {format} --out {out}"
            yield Loading(exporter.runtime, [export, *commands_for(exporter, checkpoint, out)], exported=True)


def commands_for(exporter: Exporter, checkpoint: Checkpoint, name: str) -> list[str]:
    """What an exporter says that users type, with a name that is not a place on this machine, nor a path of Windows."""
    places = {str(Path(name).absolute()), str(Path(name).resolve())}
    commands = exporter.commands(checkpoint, Path(name))
    for place in places:
        commands = [command.replace(place, f"./{name}") for command in commands]
    windows = name.replace("/", "\\")
    if windows != name:
        for written in (f"'{windows}'", windows):  # quoted for its backslash
            commands = [command.replace(written, name) for command in commands]
    return commands


def card_of_export(exporter: Exporter, checkpoint: Checkpoint, name: str = PLACEHOLDER) -> str | None:
    """The card of what an exporter has made of a checkpoint; None if Bonsai did not write that.

    Args:
        name: of what was written, on the hub or of a single file.
    """
    facts = facts_of(checkpoint.path)
    if facts is None:
        return None
    loading = [Loading(exporter.runtime, commands_for(exporter, checkpoint, name))]
    return render_card(facts, loading, name, library="transformers" if exporter.as_saved(checkpoint) else None)


def write_card(run: Path, registry: Registry, *, trust_remote_code: bool = False) -> None:
    """Write the card of the checkpoint in the directory of a run or an adaptation whose report is there.

    Raises:
        BonsaiError: the checkpoint does not load, or the card cannot be written.
    """
    checkpoint = open_checkpoint(str(run), registry, lambda text: None, trust_remote_code=trust_remote_code)
    facts = facts_of(checkpoint.path)
    if facts is not None:
        card = render_card(facts, ways_to_load(checkpoint, registry))
        with RunDirectory(run).writing(str(checkpoint.path / CARD_NAME)):
            write_atomically(checkpoint.path / CARD_NAME, card.encode())
