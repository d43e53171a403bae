"""Models side by side: each is measured on its own, then all take turns where time is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.checkpoint import weight_bytes
from bonsai_core.errors import BonsaiError
from bonsai_core.evaluation.candidates import Candidate, find_candidates
from bonsai_core.evaluation.choices import TaskScore
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.evaluation.harness import Harness
from bonsai_core.evaluation.speed import generation_memory, generation_speeds
from bonsai_core.events import EvaluationStarted, Event, Stage, StageStarted, TokensDone, Warned
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.latency import free_bytes
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.loading.checked_config import weights_directory
from bonsai_core.model.loading.input_limits import tokens_checked
from bonsai_core.model.loading.load import load_checked
from bonsai_core.model.storage.devices import Placement, find_device, input_device
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.versions import versions
from bonsai_core.sources import load_evaluation_text, read_rows, user_path

CHECKED_TOKENS = 16


def evaluate(config: EvalConfig, *, registry: Registry | None = None) -> dict[str, Any]:
    """Measure models on the same text, questions and hardware.

    Args:
        registry: the plugins; None: the installed ones. Its observers receive the events.

    Returns:
        ``text`` (what the perplexity is on), ``models`` (one entry for each, the dense one first), ``versions`` and
        more; values that are not finite, or were not asked for, are None or left out.

    Raises:
        BonsaiError: there is no such model, text, task or device.
    """
    registry = registry or Registry()
    observe = registry.observe
    find_device(config.device)
    names = [name for name in config.tasks if user_path(name).suffix.lower() == ".jsonl"]
    others = [name for name in config.tasks if name not in names]
    files = {Path(name).stem: name for name in names}
    if len(files) < len(names):
        raise BonsaiError(f"--tasks {','.join(names)}: two files of the same name. Rename one of them.")
    rows = {task: read_rows(name) for task, name in files.items()}
    harness = Harness(others, config.include_path) if others else None
    text = load_evaluation_text(config.dataset)

    def warn(message: str) -> None:
        observe(Warned(message))

    candidates = find_candidates(config, registry, text, rows, warn)
    observe(EvaluationStarted(sum(ids.size for candidate in candidates for ids in candidate.token_ids())))
    models: list[dict[str, Any]] = []
    scores: list[dict[str, TaskScore]] = []
    for candidate in candidates:
        entry, own = _measure(candidate, config, harness, observe)
        dense = scores[0] if scores and candidates[0].is_dense else {}
        entry["tasks"] = {task: score.describe(dense.get(task)) for task, score in own.items()}
        models.append(entry)
        scores.append(own)
    dtypes = {entry["dtype"] for entry in models}
    if len(dtypes) > 1:
        warn(f"The models have weights of different types ({', '.join(sorted(dtypes))}): --dtype gives all the same.")
    groups: list[list[Candidate]] = []
    if config.speed:
        observe(StageStarted(Stage.LATENCY, 0, "timing"))
        groups = [candidates] if _room_for_all(models, config, warn) else [[candidate] for candidate in candidates]
        speeds: list[dict[str, Any]] = []
        for group in groups:
            loaded = [_load(one, config, lambda text: None) for one in group]
            speeds += generation_speeds(loaded, config.generations, warn)
            del loaded
            free_cache()
        for entry, speed in zip(models, speeds, strict=True):
            entry["speed"] = speed
    windows, length = candidates[0].windows_NL.shape
    return {
        "text": {**text.describe(), "windows": windows, "sequence_length": length},
        "tasks": {task: {"file": files[task], "rows": len(own)} for task, own in rows.items()},
        "device": str(find_device(config.device)),
        "taking_turns": config.speed and len(groups) == 1,
        "models": models,
        "versions": versions(),
    }


def _room_for_all(models: Sequence[Mapping[str, Any]], config: EvalConfig, warn: Callable[[str], None]) -> bool:
    """Whether memory can hold all models while one of them generates."""
    loaded = [entry["loaded_bytes"] for entry in models]
    peaks = [max((peak for peak in entry["memory"].values() if peak is not None), default=0) for entry in models]
    working = max(max(0, peak - size) for peak, size in zip(peaks, loaded, strict=True))
    if config.device_map == "none" and sum(loaded) + working < free_bytes(find_device(config.device)):
        return True
    if len(models) > 1:
        warn("The models are timed one after the other, because there is no room for all of them at once.")
    return False


def _measure(
    candidate: Candidate, config: EvalConfig, harness: Harness | None, observe: Callable[[Event], None]
) -> tuple[dict[str, Any], dict[str, TaskScore]]:
    """All that needs no other model: the report's entry, and the scores per task."""
    observe(StageStarted(Stage.EVALUATE, 0, f"{candidate.name}: perplexity"))

    def warn(text: str) -> None:
        observe(Warned(f"{candidate.name}: {text}"))

    model = _load(candidate, config, warn)
    chunks = Chunks(config.batch_size * config.eval_sequence_length, warn, lambda tokens: observe(TokensDone(tokens)))
    passes = Passes(model, chunks)
    _check_head(passes, candidate.windows_NL, candidate.name)
    perplexity = passes.predictions.perplexity(candidate.windows_NL)
    scores = {}
    for task, questions in candidate.questions.items():
        observe(StageStarted(Stage.EVALUATE, 0, f"{candidate.name}: {task}"))
        scores[task] = TaskScore.of(passes.answers(questions))
    entry: dict[str, Any] = {
        "model": candidate.name,
        "dense": candidate.is_dense,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "parameters": model.num_parameters(),
        "weight_bytes": weight_bytes(weights_directory(candidate.source)),
        "loaded_bytes": model.get_memory_footprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    if harness is not None:
        observe(StageStarted(Stage.HARNESS, 0, f"{candidate.name}: lm-evaluation-harness"))
        with tokens_checked(model, candidate.tokenizer):
            entry["lm_eval"] = harness.measure(model, candidate.tokenizer, config.batch_size, config.limit)
    if config.speed:
        observe(StageStarted(Stage.MEMORY, 0, f"{candidate.name}: memory"))
        entry["memory"] = generation_memory(model, config.generations, warn)
    del model, passes
    free_cache()
    return entry, scores


def _load(candidate: Candidate, config: EvalConfig, warn: Callable[[str], None]) -> Any:
    placement, trusted = Placement.of(config), config.trust_remote_code
    return load_checked(candidate.source, candidate.config, placement, trust_remote_code=trusted, warn=warn)


def _check_head(passes: Passes, windows_NL: NDArray[np.int64], name: str) -> None:
    """Check that logits made from hidden states, a chunk at a time, are those of the model."""
    ids = windows_NL[:1, :CHECKED_TOKENS]
    with torch.inference_mode():
        own = passes.model(input_ids=torch.from_numpy(ids).to(input_device(passes.model)), use_cache=False).logits[0]
        ((_, hidden),) = passes.last_hidden(ids, np.zeros(1, dtype=np.int64))
        ours = torch.cat(list(passes.predictions.logits(hidden[0]))).cpu()
    own = own.float().cpu()
    if own.isfinite().all() and not torch.allclose(ours, own, rtol=0.02, atol=0.02 * float(own.abs().max())):
        raise BonsaiError(
            f"{name} does something to its logits that Bonsai does not know, so its perplexity cannot be measured. "
            f"Tasks of lm-evaluation-harness can be: lm-eval run."
        )
