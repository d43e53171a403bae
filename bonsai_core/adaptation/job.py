"""The job of an adaptation: everything that must hold before a teacher or a student is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bonsai_core.adaptation.config import AdaptConfig
from bonsai_core.adaptation.curriculum import Curriculum, plan_curriculum
from bonsai_core.checkpoint import ParentFiles
from bonsai_core.errors import BonsaiError
from bonsai_core.model.loading.checked_config import fit_to_files
from bonsai_core.model.loading.lookup import find_source, model_config
from bonsai_core.model.loading.parent_files import find_parent_files
from bonsai_core.model.loading.provenance import Provenance, find_provenance
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir import free_path


@dataclass(frozen=True)
class AdaptJob(Curriculum):
    """What an adaptation works with; no weights yet.

    Attributes:
        parent_files: the student's files that the adapted checkpoint keeps.
        layers: the teacher's layers that the student still has; None where hidden states are not compared.
    """

    provenance: Provenance
    parent_files: ParentFiles
    layers: list[int] | None


def open_adaptation(config: AdaptConfig, registry: Registry, warn: Callable[[str], None]) -> AdaptJob:
    """Find and check everything; nothing is written.

    Raises:
        BonsaiError: anything is missing or does not fit together.
    """
    provenance = find_provenance(config.model)
    source = find_source(provenance.source)
    as_read = model_config(source, config.trust_remote_code)
    student = fit_to_files(as_read, source, config.trust_remote_code, warn)
    if getattr(student, "quantization_config", None):
        raise BonsaiError(f"{config.model} is quantised, and its weights cannot be trained. Give the original model.")
    texts = (provenance.setting("dataset") or "builtin", provenance.setting("eval_dataset"))
    slicer = provenance.setting("slicer")
    curriculum = plan_curriculum(config, registry, source, student, provenance.dense, texts, slicer, warn)
    layers = _layers(config, provenance, curriculum.teacher, student)
    files = find_parent_files(source, as_read, curriculum.tokenizer)
    return AdaptJob(**vars(curriculum), provenance=provenance, parent_files=files, layers=layers)


def default_path(provenance: Provenance) -> Path:
    """The directory of an adaptation if the user names none."""
    if provenance.run is not None:
        return free_path(provenance.run, "adapted")
    return free_path(Path("runs"), f"{Path(provenance.source).name}-adapted")


def _layers(config: AdaptConfig, provenance: Provenance, teacher: str | None, student: Any) -> list[int] | None:
    """Which layer of the teacher each of the student's layers is, if hidden states are compared."""
    if teacher is None or not config.hidden_weight:
        return None
    theirs = model_config(find_source(teacher), config.trust_remote_code)
    layers = provenance.layers() or list(range(student.num_hidden_layers))
    fits = len(layers) == student.num_hidden_layers and max(layers) < theirs.num_hidden_layers
    if not fits or theirs.hidden_size != student.hidden_size:
        raise BonsaiError(
            f"The hidden states of {config.model} ({student.num_hidden_layers} layers of {student.hidden_size}, once "
            f"numbered {layers}) cannot be compared with those of the teacher {teacher} ({theirs.num_hidden_layers} "
            f"layers of {theirs.hidden_size}). Give --hidden-weight 0."
        )
    return layers
