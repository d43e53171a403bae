"""The checkpoint of an adapted model: room for it, how it is written, and whether it is what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.checkpoint import checkpoint_directory, weight_bytes
from bonsai_core.model.loading.lookup import find_source
from bonsai_core.model.loading.saved import verify_saved
from bonsai_core.model.loading.saving import save_once, verify_once
from bonsai_core.model.storage.devices import Placement
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.rundir import check_disk
from bonsai_core.rundir.journal import Payload
from bonsai_core.rundir.ledger import Ledger
from bonsai_core.rundir.versions import versions

DISK_MARGIN = 1.1


def check_room(path: Path, job: AdaptJob) -> None:
    """Refuse before the training if what it writes would not fit: checkpoint, two states, teacher.

    Raises:
        BonsaiError: there is too little room.
    """
    source = Path(find_source(job.provenance.source))
    size = weight_bytes(source) if source.is_dir() else 0
    in_float32 = size * torch.float32.itemsize // (job.model_config.dtype or torch.float32).itemsize
    state = {"full": 3 * in_float32, "lora": in_float32, "scales": 0}[job.config.method]
    check_disk(path, int(DISK_MARGIN * (size + 2 * state + job.scratch_bytes())))


def save(job: AdaptJob, model: Any, ledger: Ledger) -> None:
    """Write the checkpoint.

    Raises:
        BonsaiError: it cannot be written.
    """
    metadata = {
        **job.provenance.metadata,
        "adaptation": {
            "of": job.config.model,
            "teacher": job.teacher,
            "config": job.config.decisive(),
            "versions": versions(),
        },
    }

    def write(path: Path) -> int:
        with checkpoint_directory(path, model, job.tokenizer, metadata, job.parent_files) as partial:
            model.save_pretrained(partial)
        return sum(parameter.numel() for parameter in model.parameters())

    save_once(ledger, write)


def verify(job: AdaptJob, ledger: Ledger, *, again: bool) -> None:
    """Load the checkpoint as its users will: it has to be the model that was adapted.

    Args:
        again: verify it although an earlier process did, because it was written again.

    Raises:
        BonsaiError: it cannot be loaded, or is not the model that was adapted.
    """
    free_cache()
    config, loss = job.config, ledger.journal["loss"]["loss"]
    placement = Placement(device=config.device)

    def verified() -> Payload:
        path, window_T = ledger.directory.model_path, job.evaluation_NL[0]
        return verify_saved(path, window_T, loss, placement, trust_remote_code=config.trust_remote_code)

    verify_once(ledger, verified, again=again)
