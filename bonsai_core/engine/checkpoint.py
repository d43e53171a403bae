"""What a run ends with: the checkpoint, and the dense and the pruned model timed side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import empty_model, save_checkpoint, save_streamed
from bonsai_core.checkpoint.uniform import stock_class
from bonsai_core.engine.job import Job
from bonsai_core.errors import shortened
from bonsai_core.model.forward.latency import free_bytes, generation_seconds
from bonsai_core.model.forward.turns import speed, speedup, take_turns
from bonsai_core.model.loading.parent import load_parent
from bonsai_core.model.loading.saved import verify_saved
from bonsai_core.model.pruned_files import PrunedFiles
from bonsai_core.model.storage.device_name import device_name
from bonsai_core.model.storage.devices import Placement
from bonsai_core.model.storage.memory import drop_weights
from bonsai_core.rundir.versions import versions

LATENCY_REPEATS = 7
LATENCY_NEW_TOKENS = 8
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
        **({"license": dict(job.parent_files.license)} if job.parent_files.license else {}),
        "config": config.model_dump(mode="json", exclude={"device", *config.NOT_DECISIVE}),
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
    """Dense and pruned taking turns to read a prompt and write after it; left out where that cannot be measured.

    Returns:
        ``device``, its name; ``phases``, by name ``dense_s``, ``pruned_s`` (medians) and ``speedup``, see there;
        ``dense_s`` and ``pruned_s`` of the prefill; ``tokens`` of the prompt, and ``new_tokens``. Or why it was
        ``skipped``.
    """
    beside = dense_beside(job)
    if isinstance(beside, str):
        return {"skipped": beside}
    models = (beside, job.subject.model)
    length = job.evaluation_NT.shape[1]  # the model has that many positions
    new_tokens = min(LATENCY_NEW_TOKENS, length - 1)
    tokens = length - new_tokens
    try:
        sides = [partial(generation_seconds, model, 1, tokens, new_tokens) for model in models]
        seconds_SRP = take_turns(sides, LATENCY_REPEATS)
    except Exception as error:  # a stranger's modeling code may not generate; all else of the run is done
        return {"skipped": f"the models cannot generate: {shortened(str(error))}"}
    dense, pruned = (speed(seconds_RP, 1, tokens) for seconds_RP in seconds_SRP)
    phases = {
        phase: {"dense_s": dense[f"{phase}_s"], "pruned_s": pruned[f"{phase}_s"], "speedup": times}
        for phase, times in speedup(*seconds_SRP).items()
    }
    prefill = {name: phases["prefill"][name] for name in ("dense_s", "pruned_s")}
    how = {"tokens": tokens, "new_tokens": new_tokens, "repeats": LATENCY_REPEATS}
    return {"device": device_name(job.subject.device), **prefill, "phases": phases, **how}
