"""Rebuilds the checkpoint of a plan from its base, and checks that it is the same."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bonsai_core.checkpoint import save_streamed
from bonsai_core.checkpoint.digests import file_digests, weight_digests
from bonsai_core.checkpoint.modeling_bonsai import FILE_NAME as MODELING
from bonsai_core.checkpoint.parent import CONFIG, TOKENIZER
from bonsai_core.config import RunConfig
from bonsai_core.errors import BonsaiError, shown
from bonsai_core.model.loading.checked_config import empty_stock, model_directory
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.parent import Parent, find_parent
from bonsai_core.model.loading.parent_files import find_parent_files
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import check_disk
from bonsai_core.rundir.files import atomic_folder
from bonsai_core.rundir.versions import versions
from bonsai_core.runtimes.plans.file import PLAN_NAME, PlanFile, load_repaired
from bonsai_core.runtimes.plans.sliced import Cut, SlicedBase
from bonsai_core.sources import user_path

WRITTEN = {CONFIG, TOKENIZER, MODELING}
"""Files that another version of transformers or Bonsai may write in another way."""
WRITERS = ("bonsai-prune", "transformers")


def apply_plan(
    plan: str | os.PathLike[str],
    out: Path | None = None,
    *,
    base: str | None = None,
    registry: Registry | None = None,
    trust_remote_code: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Path:
    """Rebuild a pruned checkpoint from its base, and check that every tensor is the same bit for bit.

    The weights are read, sliced and written one by one; in memory is one of the new files, of at most 2 GB.

    Args:
        plan: the directory that the exporter ``plan`` wrote.
        out: where the checkpoint goes; None for beside the plan.
        base: where the base model is: a directory, a Hugging Face id or ``demo``; None for where it was.
        trust_remote_code: whether code that comes with the base may run.

    Returns:
        Where the checkpoint is.

    Raises:
        BonsaiError: the plan is damaged, its base is missing or another model, or the result is not the plan's
            checkpoint; nothing is written then.
    """
    folder = user_path(os.fspath(plan))
    written = PlanFile.read(folder)
    target = out or folder.resolve().with_name(f"{folder.resolve().name}-model")
    if target.exists():
        raise BonsaiError(f"{target} exists already. Remove it, or give another --out.")
    parent = _find_base(written, base, registry or Registry(), trust_remote_code, warn)
    dense = empty_stock(parent.config, parent.source, trust_remote_code)
    files = WeightFiles(Path(parent.source), dense)
    if files.fingerprint() != written.base.fingerprint:
        raise BonsaiError(
            f"{base or written.base.model} is not the model that the plan is for: its tensors are others. Give that "
            f"model, {written.base.model}{_at(written.base.revision)}, with --base."
        )
    sliced = SlicedBase(dense, files, parent.family, _cut(written))
    check_disk(target, written.num_bytes)
    tokenizer = load_tokenizer(parent.source, trust_remote_code=trust_remote_code)
    parent_files = find_parent_files(parent.source, parent.as_read, tokenizer)

    def tensor_of(name: str) -> Tensor | None:
        return load_repaired(folder, name) if name in repaired else sliced.tensor_of(name)

    repaired = frozenset(written.repaired)
    if unknown := sorted(repaired - set(sliced.names())):
        raise BonsaiError(f"{folder / PLAN_NAME} repairs what the pruned model does not have: {shown(unknown[0])}.")
    with atomic_folder(target) as partial:
        save_streamed(sliced.model, tokenizer, partial, _provenance(written, base), tensor_of, parent_files)
        _check(written, weight_digests(partial), file_digests(partial, tokenizer), warn)
    return target


def _find_base(
    plan: PlanFile, base: str | None, registry: Registry, trust_remote_code: bool, warn: Callable[[str], None]
) -> Parent:
    """The base model, in a directory."""
    name = base or plan.base.model
    revision = _revision(plan, base)
    try:
        directory = model_directory(name, revision)
    except BonsaiError as error:
        raise BonsaiError(
            f"The base model of the plan, {name}{_at(revision)}, is not there: {error} If it is elsewhere now, --base "
            f"names the place."
        ) from error
    settings = {
        "model": str(directory),
        "slicer": plan.slicer,
        "units": plan.units,
        "trust_remote_code": trust_remote_code,
    }
    return find_parent(RunConfig.from_mapping(settings, PLAN_NAME), registry, warn=warn)


def _revision(plan: PlanFile, base: str | None) -> str | None:
    """The commit on the hub that the base is taken from; that of another model is its newest."""
    return plan.base.revision if base in (None, plan.base.model) else None


def _cut(plan: PlanFile) -> Cut:
    kept = {name: np.flatnonzero(site.vector) for name, site in plan.keep.items()}
    return Cut(plan.units, kept, plan.shapes, plan.added_biases, getattr(torch, plan.dtype))


def _provenance(plan: PlanFile, base: str | None) -> dict[str, Any]:
    """What the checkpoint's bonsai.json says, as `write_checkpoint` has it."""
    revision = _revision(plan, base)
    return {
        **plan.run,
        **({"base_revision": revision} if revision else {}),
        "base_model": base or plan.base.model,
        "kept_units": {name: np.flatnonzero(site.vector).tolist() for name, site in plan.keep.items()},
    }


def _check(plan: PlanFile, weights: Mapping[str, str], files: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Whether what was built is the plan's checkpoint.

    Raises:
        BonsaiError: it is not.
    """
    if wrong := _differing(weights, plan.weights):
        raise BonsaiError(
            f"What the plan and its base give is not the checkpoint that the plan was made from: {wrong} differ. The "
            f"base or the plan was changed; or, if channels of experts have left, another processor orders them "
            f"differently."
        )
    before, here = plan.run.get("versions"), versions()
    same_writers = isinstance(before, dict) and all(before.get(name) == here[name] for name in WRITERS)
    may_differ: set[str] = set() if same_writers else WRITTEN
    kept = [{name: digest for name, digest in each.items() if name not in may_differ} for each in (files, plan.files)]
    if wrong := _differing(*kept):
        raise BonsaiError(f"The base has other files than when it was pruned: {wrong} of the checkpoint differ.")
    if wrong := _differing(files, plan.files):
        warn(
            f"All tensors are the same, and {wrong} differ from those of the plan's checkpoint, as "
            f"{', '.join(f'{name} {here[name]}' for name in WRITERS)} write them."
        )


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Names of what only one has, or of which they have different digests; empty if there is none."""
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""
