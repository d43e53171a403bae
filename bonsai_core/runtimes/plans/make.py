"""Makes the plan of a run's checkpoint: what was kept of its base, and the tensors that are not slices of it."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from bonsai_core.checkpoint import weight_bytes
from bonsai_core.checkpoint.digests import bytes_of, file_digests, layer_of, weight_digests
from bonsai_core.checkpoint.save import PROVENANCE_NAME
from bonsai_core.contracts import Checkpoint
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.checked_config import empty_stock, fit_to_files, model_directory
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.model.loading.provenance import find_provenance
from bonsai_core.model.recognition.recognise import recognise
from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.runtimes.plans.file import Base, Kept, PlanFile, Revision, write_repairs
from bonsai_core.runtimes.plans.sliced import Cut, SlicedBase
from bonsai_core.settings.names import Usable
from bonsai_core.settings.types import MAX_COUNT
from bonsai_core.units import UnitKind


class _Settings(BaseModel):
    """Of the run, as far as plans need them."""

    slicer: str
    units: tuple[UnitKind, ...]


class _Made(BaseModel):
    """How a checkpoint was made: its bonsai.json as a run writes it."""

    model_config = ConfigDict(extra="allow")
    base_model: Usable[str]
    base_revision: Revision | None = None
    config: _Settings
    kept_units: dict[str, list[Annotated[int, Field(ge=0, lt=MAX_COUNT)]]]


def plan_refusal(checkpoint: Checkpoint) -> str | None:
    """Why there can be no plan of a checkpoint, in a sentence; None if there can be."""
    metadata = find_provenance(str(checkpoint.path)).metadata
    if not metadata:
        return (
            f"There is no {PROVENANCE_NAME} beside its weights, so it is not known what was kept of which model. Only "
            f"checkpoints of runs have plans, whole and as they were written."
        )
    if "adaptation" in metadata:
        return (
            "It was adapted after it was pruned, so its weights are not slices of its base's. Only the run before "
            "that has a plan."
        )
    try:
        made = _made(checkpoint)
    except BonsaiError as error:
        return str(error)
    try:
        find_source(made.base_model)
    except BonsaiError as error:
        return f"Its base model, {made.base_model}, cannot be used: {error}"
    return None


def write_plan(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the plan of a run's checkpoint, from which `apply_plan` makes the same checkpoint.

    Its tensors are compared with slices of the base's, a layer at a time. What differs, as repaired projections do, is
    in the plan as it is.

    Args:
        directory: empty.

    Raises:
        BonsaiError: it was not pruned from its base as that is now.
    """
    made, source = _made(checkpoint), find_provenance(str(checkpoint.path)).metadata
    base = model_directory(made.base_model, made.base_revision)
    as_read = model_config(str(base), trust_remote_code=False)
    family = (checkpoint.family or recognise(as_read)).of(as_read)
    config = fit_to_files(as_read, str(base), False, lambda text: None)
    dtype: torch.dtype = checkpoint.config.dtype
    cut = Cut(
        made.config.units,
        {name: np.array(numbers, np.int64) for name, numbers in made.kept_units.items()},
        "uniform" if checkpoint.stock else "free",
        bool(getattr(checkpoint.config, "added_biases", ())),
        dtype,
    )
    dense = empty_stock(config, str(base), trust_remote_code=False)
    files = WeightFiles(base, dense)
    sliced = SlicedBase(dense, files, family, cut)
    repaired = _write_repairs(sliced, WeightFiles(checkpoint.path, sliced.model), f"{family.layers}.", directory)
    PlanFile(
        base=Base(model=made.base_model, revision=made.base_revision, fingerprint=files.fingerprint()),
        slicer=made.config.slicer,
        units=made.config.units,
        shapes=cut.shapes,
        added_biases=cut.added_biases,
        dtype=str(dtype).removeprefix("torch."),
        keep={name: Kept.of_vector(vector) for name, vector in sliced.keeps().items()},
        repaired=tuple(repaired),
        weights=weight_digests(checkpoint.path),
        files=file_digests(checkpoint.path, load_tokenizer(str(checkpoint.path))),
        num_bytes=weight_bytes(checkpoint.path),
        run={name: source[name] for name in source if name not in ("base_model", "base_revision", "kept_units")},
    ).write(directory)


def _made(checkpoint: Checkpoint) -> _Made:
    """What its bonsai.json says.

    Raises:
        BonsaiError: it is not one that a run has written.
    """
    metadata = find_provenance(str(checkpoint.path)).metadata
    try:
        json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
        return _Made.model_validate(metadata)
    except ValidationError as error:
        row = error.errors(include_url=False)[0]
        wrong = f"{'.'.join(map(str, row['loc']))}: {row['msg']}"
    except ValueError as error:
        wrong = str(error)
    raise BonsaiError(f"{checkpoint.path / PROVENANCE_NAME} does not say what a run writes into it: {wrong}.")


def _write_repairs(sliced: SlicedBase, saved: WeightFiles, layers: str, directory: Path) -> list[str]:
    """Write what differs from the slices, layer by layer; returns the names.

    Raises:
        BonsaiError: a tensor that no repair changes differs, which shows that the base is another one.
    """
    repaired: list[str] = []
    for layer, names in groupby(sliced.names(), layer_of):
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensor, part = saved.load(name), sliced.tensor_of(name)
            if not _same(tensor, part):
                tensors[name] = tensor
            if name in tensors and not name.startswith(layers):
                raise BonsaiError(
                    f"The checkpoint was not pruned from its base as that is now: {name} differs, which no run "
                    f"changes. The base was changed since, or the checkpoint was trained."
                )
        if tensors:
            write_repairs(directory, layer, tensors)
            repaired += tensors
    return repaired


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    """Whether two tensors are the same bit for bit."""
    if other is None or tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    return torch.equal(bytes_of(tensor), bytes_of(other))
