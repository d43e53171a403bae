"""Writes a checkpoint for a runtime, and verifies it there."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bonsai_core.checkpoint import weight_bytes
from bonsai_core.contracts import Checkpoint, Exporter
from bonsai_core.errors import BonsaiError
from bonsai_core.model.forward.latency import free_bytes
from bonsai_core.model.loading.saved import has_own_code
from bonsai_core.publishing.card import CARD_NAME
from bonsai_core.publishing.loading import card_of_export
from bonsai_core.publishing.push import check_push_of, push_export
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.files import atomic_file, atomic_folder
from bonsai_core.runtimes.checkpoint import open_checkpoint
from bonsai_core.runtimes.formats import default_path, exporters, find_exporter
from bonsai_core.runtimes.runner import MissingRuntimeError, starting
from bonsai_core.runtimes.verify import Reference, Verification, compare, reference


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file or directory.
        commands: what users type to run it.
        verification: how it compares with transformers; None if that was not asked for.
        checked: what the exporter itself found when it compared it with the checkpoint; None if it did not.
        unverified: why it was not verified although it was asked for; None if it was.
        pushed: the address on the hub; None if it was not to be pushed.
    """

    path: Path
    commands: list[str]
    verification: Verification | None = None
    checked: str | None = None
    unverified: str | None = None
    pushed: str | None = None


def export(
    model: str,
    format: str,
    out: Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    verify: bool = False,
    python: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
    registry: Registry | None = None,
    trust_remote_code: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Exported:
    """Write a model in the format of a runtime.

    Args:
        model: a run directory, a checkpoint, a Hugging Face id or ``demo``.
        format: the name of an exporter, or ``NAME:VALUE`` with its variant, such as ``gguf:q8_0``.
        out: where it goes; None for beside the model, under a name made from the format.
        options: of the exporter, by name.
        verify: load it in its runtime, in a fresh process, and compare it with transformers.
        python: the interpreter of the environment that has the runtime; None for this one's.
        push_to_hub: ``OWNER/NAME`` on the Hugging Face hub that it is pushed to; None: nowhere.
        private: whether a repository that is made there is only seen by its owner.

    Raises:
        BonsaiError: the format cannot hold the model, it exists already, what was written is another model, or it
            cannot be pushed.
    """
    registry = registry or Registry()
    exporter = find_exporter(format, registry, options)
    checkpoint = open_checkpoint(model, registry, warn, trust_remote_code=trust_remote_code)
    path = out or default_path(model, format, exporter)
    if path.exists():
        raise BonsaiError(f"{path} exists already. Remove it, or give another --out.")
    refusal = exporter.refusal(checkpoint)
    if refusal is not None:
        able = [name for name, other in exporters(registry).items() if other.refusal(checkpoint) is None]
        raise BonsaiError(f"{exporter.runtime} cannot take {model}: {refusal} These formats can: {', '.join(able)}.")
    if push_to_hub is not None:
        check_push_of(checkpoint, push_to_hub)
    write(exporter, checkpoint, path)
    exported = Exported(path, exporter.commands(checkpoint, path))
    if verify:
        expected = partial(reference, checkpoint, trust_remote_code=trust_remote_code)
        exported = verify_if_possible(
            exporter, checkpoint, path, expected, python=python, trust_remote_code=trust_remote_code
        )
    if push_to_hub is None:
        return exported
    return replace(exported, pushed=push_export(exporter, checkpoint, path, push_to_hub, private=private))


def write(exporter: Exporter, checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint that the exporter does not refuse: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (atomic_file if exporter.suffix else atomic_folder)(path) as partial:
        exporter.export(checkpoint, partial)
        card = None if exporter.suffix else card_of_export(exporter, checkpoint)
        if card is not None:
            (partial / CARD_NAME).write_text(card, encoding="utf-8")


def verify_if_possible(
    exporter: Exporter,
    checkpoint: Checkpoint,
    path: Path,
    expected: Callable[[], Reference],
    *,
    python: str | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """What was written, compared with the checkpoint in transformers, or why that could not be done.

    Args:
        expected: computes the checkpoint's `reference`; called where the runtime is there, before it loads the
            model, so that only one of the two is in memory.

    Raises:
        BonsaiError: it is another model.
    """
    exported = Exported(path, exporter.commands(checkpoint, path))
    if exporter.runner is None:
        checked = exporter.check(checkpoint, path)
        unverified = None if checked else f"nothing loads the format {exporter.name} by itself."
        return replace(exported, checked=checked, unverified=unverified)
    needed, free = _float32_bytes(checkpoint), free_bytes(torch.device("cpu"))
    if free < needed:
        why = f"transformers needs {needed / 1e9:.1f} GB of memory for it in float32, and {free / 1e9:.1f} GB are free."
        return replace(exported, unverified=why)
    try:
        with starting(exporter.runner, python=python) as runtime:  # says at once where it is missing
            known = expected()
            loaded = runtime.load(path, trust_remote_code=trust_remote_code or has_own_code(path))
            return replace(exported, verification=compare(loaded, known, exporter.tolerance(checkpoint)))
    except MissingRuntimeError as error:
        again = _command(exporter, checkpoint, path.with_name(f"verified-{path.name}"))
        why = f"{error} With the interpreter of an environment that has {exporter.runtime}: {again} --python PATH"
        return replace(exported, unverified=why)


def _float32_bytes(checkpoint: Checkpoint) -> int:
    """Memory of the weights in float32, as `reference` loads them."""
    dtype = getattr(checkpoint.config, "dtype", None) or torch.float32
    return weight_bytes(checkpoint.path) * torch.float32.itemsize // dtype.itemsize


def _command(exporter: Exporter, checkpoint: Checkpoint, out: Path) -> str:
    """What exports and verifies again; elsewhere, as nothing is overwritten."""
    options = [
        f"--format.{name.replace('_', '-')} {shlex.quote(str(getattr(exporter, name)))}"
        for name in sorted(exporter.model_fields_set)
    ]
    model, to = (shlex.quote(str(each)) for each in (checkpoint.path, out))
    return " ".join(["bonsai export", model, f"--format {exporter.name}", *options, f"--out {to}", "--verify"])
