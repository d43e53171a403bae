"""What a run ends with: the checkpoint, and the dense and the pruned model timed side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import empty_model, save_checkpoint, save_streamed
from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.engine.job import Job
from bonsai_core.model.forward.latency import free_bytes, side_by_side
from bonsai_core.model.loading.parent import load_parent
from bonsai_core.model.loading.saved import verify_saved
from bonsai_core.model.pruned_files import PrunedFiles
from bonsai_core.model.storage.devices import Placement
from bonsai_core.model.storage.memory import drop_weights
from bonsai_core.rundir.versions import versions

LATENCY_REPEATS = 7
LATENCY_HEADROOM = 1.5


def write_checkpoint(job: Job, keep_U: NDArray[np.bool_], path: Path) -> int:
    """Write the pruned model and where it comes from; a model that is not sliced in place is sliced on disk.

    Args:
        keep_U: the units it has, bool [U].

    Returns:
        How many parameters it has.
    """
    config, subject, family = job.config, job.subject, job.parent.family
    per_layer, shapes = subject.layer_sizes(keep_U), config.saved_as
    added = subject.output_paths() if job.methods.compensator.adds_bias else ()
    revision = job.parent_files.revision
    provenance = {
        "base_model": config.model,
        **({"base_revision": revision} if revision else {}),
        "config": config.model_dump(mode="json", exclude={"out", "device"}),
        "sparsity": subject.table.sparsity(keep_U),
        "versions": versions(),
        "kept_units": {site.name: np.flatnonzero(keep_U[site.units]).tolist() for site in subject.table},
    }
    files = subject.storage.files
    if files is None:
        return save_checkpoint(
            subject.model,
            job.tokenizer,
            path,
            family=family,
            per_layer=per_layer,
            shapes=shapes,
            provenance=provenance,
            added_biases=added,
            parent=job.parent_files,
        )
    pieces, dense = PrunedFiles(subject, files, keep_U), subject.model
    stock, settings = stock_class(type(dense)), dense.generation_config
    small = empty_model(pieces.config, stock, family, per_layer, shapes, added, settings)
    save_streamed(small, job.tokenizer, path, provenance, pieces.tensor_of, job.parent_files)
    return sum(parameter.numel() for parameter in small.parameters())


def verify_checkpoint(job: Job, path: Path, loss: float | None) -> dict[str, Any]:
    """Open the checkpoint as its users will, see `verify_saved`. The subject's weights leave memory first.

    Args:
        loss: of the pruned model on the first evaluation window, nats; None if it is not finite.

    Raises:
        BonsaiError: it cannot be loaded, or is not the model that was measured.
    """
    config = job.config
    if config.load_in != "full":
        return {"skipped": f"the model was measured in {config.load_in}, and what is saved is in full precision"}
    drop_weights(job.subject.model)
    return verify_saved(
        path,
        job.evaluation_NT[0],
        loss,
        Placement.of(config),
        masked=not job.subject.in_place,
        trust_remote_code=config.trust_remote_code,
    )


def dense_beside(job: Job) -> Any:
    """The dense model, loaded again; or as a string, why it cannot be in memory beside the pruned one."""
    if job.config.weights_elsewhere:
        return "the dense model is not held in memory in full precision"
    if free_bytes(job.subject.device) < LATENCY_HEADROOM * job.dense_bytes:
        return "not enough free memory to hold both the dense and the pruned model"
    return load_parent(job.parent, job.config, lambda text: None)


def latencies(job: Job) -> dict[str, Any]:
    """Dense and pruned taking turns; left out where there is no room for both."""
    dense = dense_beside(job)
    if isinstance(dense, str):
        return {"skipped": dense}
    num_tokens = job.evaluation_NT.shape[1]
    dense_s, pruned_s = side_by_side(dense, job.subject.model, num_tokens=num_tokens, repeats=LATENCY_REPEATS)
    return {"dense_s": dense_s, "pruned_s": pruned_s, "tokens": num_tokens, "repeats": LATENCY_REPEATS}
