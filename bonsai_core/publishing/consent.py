"""What a run directory publishes, and that the present user has to ask for it, whoever wrote its settings."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bonsai_core.config import PluginChoice, RecordedSettings
from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.publishing.names import without_credentials
from bonsai_core.publishing.push import already_pushed

Recorded = TypeVar("Recorded", bound=RecordedSettings)


def consented(
    stored: Recorded,
    path: Path,
    *,
    push_to_hub: str | None,
    tracker: str | None,
    warn: Callable[[str], None],
    pushes_from: Path | None = None,
) -> Recorded:
    """Settings from a run directory, without the push and the tracker that the present user did not ask for.

    Args:
        stored: what the run was started with, or somebody wrote there.
        path: the directory that users resume.
        push_to_hub: the name that the user allows a push to.
        tracker: the name of the tracker that the user allows.
        warn: receives what is left out, with the option that turns it on.
        pushes_from: the directory whose checkpoint is pushed; None: `path`.
    """
    changes: dict[str, None] = {}
    again, name = f"bonsai resume {shlex.quote(str(path))}", stored.push_to_hub
    if name is not None and name != push_to_hub and not already_pushed(pushes_from or path, name):
        changes["push_to_hub"] = None
        warn(
            f"{path} asks for a push to {name} at its end, which is left out: a file alone does not decide what is "
            f"published with your access token. If you want it: {again} --push-to-hub {name}"
        )
    if stored.tracker is not None and stored.tracker.name != tracker:
        changes["tracker"] = None
        warn(
            f"{path} asks for the tracker {_described(stored.tracker)}, which is left out: a file alone does not "
            f"decide where values are sent. If you want it: {again} --tracker {shlex.quote(stored.tracker.name)}"
        )
    return stored.model_copy(update=changes)


def refuse_unstored(path: Path, *stored: RecordedSettings, push_to_hub: str | None, tracker: str | None) -> None:
    """Check that what the user allows is what a run was started with.

    Args:
        stored: the settings of the run and of its adaptation.

    Raises:
        BonsaiError: it is something else.
    """
    names = list(dict.fromkeys(each.push_to_hub for each in stored if each.push_to_hub is not None))
    if push_to_hub is not None and push_to_hub not in names:
        instead = f"it pushes to {' and '.join(names)}" if names else "it pushes nothing"
        raise BonsaiError(
            f"--push-to-hub {push_to_hub} is not what {path} was started with: {instead}. Leave the option out, and "
            f"push the result with: bonsai push {shlex.quote(str(path))} {push_to_hub}"
        )
    trackers = list(dict.fromkeys(each.tracker.name for each in stored if each.tracker is not None))
    if tracker is not None and tracker not in trackers:
        instead = f"it has the tracker {' and '.join(trackers)}" if trackers else "it has none"
        raise BonsaiError(f"--tracker {tracker} is not what {path} was started with: {instead}. Leave the option out.")


def _described(tracker: PluginChoice) -> str:
    """A tracker with its options, which say where it sends values."""
    options = ", ".join(f"{name}: {value}" for name, value in tracker.options.items())
    return f"{tracker.name} ({shortened(without_credentials(options))})" if options else tracker.name
