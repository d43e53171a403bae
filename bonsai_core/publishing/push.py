"""Pushes a checkpoint to the Hugging Face hub, with a card that says how to load it from there."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from bonsai_core.config import RecordedSettings
from bonsai_core.contracts import Checkpoint, Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Stage, StageStarted
from bonsai_core.publishing.card import render_card
from bonsai_core.publishing.facts import Facts, facts_of
from bonsai_core.publishing.hub import check_hub, upload
from bonsai_core.publishing.loading import card_of_export, ways_to_load
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.files import refuse_links_inside, write_atomically
from bonsai_core.runtimes.checkpoint import open_checkpoint

RECORD_NAME = "pushed.json"


class _Pushed(BaseModel):
    name: str
    url: str


def push(
    model: str,
    name: str,
    *,
    private: bool = False,
    registry: Registry | None = None,
    trust_remote_code: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> str:
    """Push a checkpoint to the Hugging Face hub: what is in its folder, without paths, and nothing else.

    Args:
        model: a run directory, or a checkpoint that Bonsai wrote.
        name: of the repository, ``OWNER/NAME``; it is made if it is not there.
        private: whether it is then only seen by its owner.

    Returns:
        The address of the repository.

    Raises:
        BonsaiError: there is no such checkpoint, no token that may write there, or the hub refuses.
    """
    registry = registry or Registry()
    checkpoint = open_checkpoint(model, registry, warn, trust_remote_code=trust_remote_code)
    facts = _known(checkpoint)
    check_hub(name)
    card = render_card(facts, ways_to_load(checkpoint, registry, name), name)
    return upload(files_of(checkpoint.path), card, name, private=private)


def check_push_of(checkpoint: Checkpoint, name: str) -> None:
    """Check that an export of a checkpoint can be pushed.

    Raises:
        BonsaiError: Bonsai did not write the checkpoint; otherwise see `check_hub`.
    """
    _known(checkpoint)
    check_hub(name)


def push_export(exporter: Exporter, checkpoint: Checkpoint, path: Path, name: str, *, private: bool = False) -> str:
    """Push what an exporter has made of a checkpoint that Bonsai wrote.

    Args:
        path: what was written.
        name, private: as for `push`.

    Returns:
        The address of the repository.

    Raises:
        BonsaiError: it cannot be pushed.
    """
    card = card_of_export(exporter, checkpoint, path.name if exporter.suffix else name)
    assert card is not None, "it was checked before"
    try:
        return upload(files_of(path), card, name, private=private)
    except BonsaiError as error:
        raise BonsaiError(f"{error} What was written is in {path}; nothing of it is lost.") from None


def _known(checkpoint: Checkpoint) -> Facts:
    """What is known of a checkpoint.

    Raises:
        BonsaiError: Bonsai did not write it, so that there is nothing to say on a card.
    """
    facts = facts_of(checkpoint.path)
    if facts is None:
        raise BonsaiError(
            f"{checkpoint.path} cannot be pushed: it is not a checkpoint that Bonsai wrote, with its bonsai.json."
        )
    return facts


def files_of(path: Path) -> dict[str, Path]:
    """The files in a folder, or a single file, by their names in a repository; hidden ones stay here.

    Raises:
        BonsaiError: one is a link, which may lead elsewhere.
    """
    if path.is_file():
        return {path.name: path}
    refuse_links_inside(path)
    names = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    return {name.as_posix(): file for name, file in names.items() if not any(p.startswith(".") for p in name.parts)}


def push_once(run: Path, config: RecordedSettings, registry: Registry) -> str | None:
    """Push the checkpoint of a run or an adaptation, if its settings say so and no earlier process did.

    Returns:
        The address of the repository; None if nothing is to be pushed.

    Raises:
        BonsaiError: it cannot be pushed; the message says how to try again.
    """
    name = config.push_to_hub
    if name is None:
        return None
    before = _recorded(run)
    if before is not None and before.name == name:
        return before.url
    registry.observe(StageStarted(Stage.PUSH, 0, f"push to {name}"))
    try:
        trusted = config.trust_remote_code
        url = push(
            str(run), name, private=config.private, registry=registry, trust_remote_code=trusted, warn=lambda text: None
        )
    except BonsaiError as error:
        again = f"bonsai push {shlex.quote(str(run))} {name}{' --private' if config.private else ''}"
        raise BonsaiError(f"{error} All else is done, and the checkpoint is in {run}. Push it with: {again}") from None
    write_atomically(run / RECORD_NAME, _Pushed(name=name, url=url).model_dump_json(indent=2).encode())
    return url


def check_push(config: RecordedSettings, run: Path | None = None) -> None:
    """Check before long work that what is to be pushed at its end can be.

    Args:
        run: the directory, if some of the work is done already.

    Raises:
        BonsaiError: it cannot be; see `check_hub`.
    """
    name = config.push_to_hub
    if name is not None and (run is None or not already_pushed(run, name)):
        check_hub(name)


def already_pushed(run: Path, name: str) -> bool:
    """Whether an earlier process has pushed the checkpoint of a run or an adaptation to `name`."""
    before = _recorded(run)
    return before is not None and before.name == name


def _recorded(run: Path) -> _Pushed | None:
    """What was pushed from a directory; None if nothing was, or it is not known."""
    with suppress(OSError, ValueError):
        return _Pushed.model_validate_json((run / RECORD_NAME).read_bytes())
    return None
