"""Models side by side: each is measured on its own, then all take turns where time is measured."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.checkpoint import weight_bytes
from bonsai_core.contracts.events import EvaluationStarted, Event, StageStarted, TokensDone, Warned
from bonsai_core.errors import BonsaiError
from bonsai_core.evaluation.choices import TaskScore
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.evaluation.harness import Harness
from bonsai_core.evaluation.speed import generation_memory, generation_seconds
from bonsai_core.model.latency import free_bytes
from bonsai_core.model.load import (
    check_positions,
    declared_family,
    find_device,
    find_source,
    load_as_configured,
    load_tokenizer,
    model_config,
    start_token,
)
from bonsai_core.model.passes import Passes
from bonsai_core.provenance import Origin, find_origin
from bonsai_core.sources import (
    Question,
    draw_questions,
    load_evaluation_text,
    read_rows,
    user_path,
    windows_of,
)
from bonsai_core.versions import versions

HEADROOM = 1.5
"""Times their weights that models need to stand in memory together and generate."""


@dataclass(frozen=True)
class _Candidate:
    """A model to be measured, and what it is measured on in its own tokens.

    Attributes:
        name: what the user calls it.
        windows_NL: of the text, int64.
        questions: per task.
    """

    name: str
    source: str
    is_dense: bool
    tokenizer: Any
    windows_NL: NDArray[np.int64]
    questions: dict[str, list[Question]]

    @property
    def num_tokens(self) -> int:
        """That go through the model."""
        asked = sum(len(ids) for task in self.questions.values() for question in task for ids in question.sequences)
        return int(self.windows_NL.size) + asked


def evaluate(config: EvalConfig, observe: Callable[[Event], None] = lambda event: None) -> dict[str, Any]:
    """Measure models on the same text, questions and hardware.

    Args:
        observe: told how it goes, and of what the user should know.

    Returns:
        ``text`` (what the perplexity is on), ``models`` (one entry for each, the dense one first), ``versions``; values
        that are not finite, or were not asked for, are None or left out.

    Raises:
        BonsaiError: there is no such model, text, task or device.
    """
    find_device(config.device)
    files = {Path(name).stem: name for name in config.tasks if user_path(name).suffix.lower() == ".jsonl"}
    others = [name for name in config.tasks if name not in files.values()]
    if len(files) + len(others) < len(config.tasks):
        raise BonsaiError(f"--tasks {','.join(config.tasks)}: two files of the same name cannot be told apart.")
    harness = Harness(others, config.include_path) if others else None
    rows = {task: read_rows(name) for task, name in files.items()}
    text = load_evaluation_text(config.dataset)

    def warn(message: str) -> None:
        observe(Warned(message))

    candidates: list[_Candidate] = []
    for name, origin, is_dense in _named(config, warn):
        source = find_source(origin.source)
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        family = declared_family(source, trust_remote_code=config.trust_remote_code)
        start = start_token(family, tokenizer)
        windows_NL = windows_of(
            text,
            tokenizer,
            num_windows=config.eval_samples,
            sequence_length=config.eval_sequence_length,
            seed=None,
            what="evaluation",
            warn=warn if not candidates else lambda message: None,
            start=start,
        )
        questions = {
            task: draw_questions(
                found,
                tokenizer,
                num_questions=config.limit or len(found),
                seed=config.seed,
                draw=0,
                warn=warn if not candidates else lambda message: None,
                start=start,
            )
            for task, found in rows.items()
        }
        check_positions(model_config(source, config.trust_remote_code), family, config.eval_sequence_length, warn)
        candidates.append(_Candidate(name, source, is_dense, tokenizer, windows_NL, questions))
    if any(not np.array_equal(one.windows_NL, candidates[0].windows_NL) for one in candidates):
        warn("The models do not have the same tokens, so their perplexities cannot be compared.")
    observe(EvaluationStarted(sum(candidate.num_tokens for candidate in candidates)))
    models: list[dict[str, Any]] = []
    scores: list[dict[str, TaskScore]] = []
    for candidate in candidates:
        entry, own = _measure(candidate, config, harness, observe)
        dense = scores[0] if scores and candidates[0].is_dense else {}
        entry["tasks"] = {task: score.describe(dense.get(task)) for task, score in own.items()}
        models.append(entry)
        scores.append(own)
    if config.speed:
        observe(StageStarted("latency", 0, "timing"))
        for entry, found in zip(models, _speeds(candidates, config, warn), strict=True):
            entry["speed"] = found
    windows, length = candidates[0].windows_NL.shape
    return {
        "text": {**text.describe(), "windows": windows, "sequence_length": length},
        "tasks": {task: {"file": files[task], "rows": len(found)} for task, found in rows.items()},
        "device": str(find_device(config.device)),
        "models": models,
        "versions": versions(),
    }


def _named(config: EvalConfig, warn: Callable[[str], None]) -> list[tuple[str, Origin, bool]]:
    """(name, where it is, whether it is the dense one) of all models, the dense one first."""
    found = [(name, find_origin(name), False) for name in dict.fromkeys(config.models)]
    dense = config.dense
    if dense == "auto":
        parents = list(dict.fromkeys(origin.dense for _, origin, _ in found if origin.dense is not None))
        if len(parents) > 1:
            warn(f"The models come from different dense ones ({', '.join(parents)}); the first is beside them.")
        dense = parents[0] if parents else "none"
        if dense != "none":
            try:
                model_config(find_source(dense), config.trust_remote_code)
            except BonsaiError as error:
                warn(f"The dense model {dense} is not beside them, because it cannot be loaded: {error}")
                dense = "none"
    if dense == "none":
        return found
    beside = [row for row in found if row[1].source not in (dense, find_source(dense))]
    return [(dense, find_origin(dense), True), *beside]


def _measure(
    candidate: _Candidate, config: EvalConfig, harness: Harness | None, observe: Callable[[Event], None]
) -> tuple[dict[str, Any], dict[str, TaskScore]]:
    """Everything that needs no other model."""
    observe(StageStarted("evaluate", 0, f"{candidate.name}: perplexity"))
    model = load_as_configured(candidate.source, config)
    passes = Passes(
        model, config.batch_size, lambda text: observe(Warned(text)), lambda tokens: observe(TokensDone(tokens))
    )
    perplexity = passes.perplexity(candidate.windows_NL)
    scores = {}
    for task, questions in candidate.questions.items():
        observe(StageStarted("evaluate", 0, f"{candidate.name}: {task}"))
        scores[task] = TaskScore.of(passes.answers(questions))
    entry: dict[str, Any] = {
        "model": candidate.name,
        "dense": candidate.is_dense,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "parameters": model.num_parameters(),
        "weight_bytes": _size(candidate.source, model),
    }
    if harness is not None:
        observe(StageStarted("evaluate", 0, f"{candidate.name}: lm-evaluation-harness"))
        entry["lm_eval"] = harness.measure(model, candidate.tokenizer, config.batch_size, config.limit)
    if config.speed:
        observe(StageStarted("evaluate", 0, f"{candidate.name}: memory"))
        entry["memory"] = {
            str(batch): generation_memory(
                model, batch=batch, prompt_tokens=config.prompt_tokens, new_tokens=config.new_tokens
            )
            for batch in config.speed_batches
        }
    del model, passes
    gc.collect()  # models hold references to themselves
    return entry, scores


def _speeds(
    candidates: Sequence[_Candidate], config: EvalConfig, warn: Callable[[str], None]
) -> list[dict[str, dict[str, float]]]:
    """Per model and batch size; models take turns, unless there is no room for all of them."""
    needed = HEADROOM * sum(_size(candidate.source, None) for candidate in candidates)
    together = config.device_map == "none" and needed < free_bytes(find_device(config.device))
    if not together and len(candidates) > 1:
        warn("The models do not fit into memory together, so they were timed one after the other.")
    groups = [candidates] if together else [[candidate] for candidate in candidates]
    speeds = []
    for group in groups:
        models = [load_as_configured(candidate.source, config) for candidate in group]
        by_batch = {
            str(batch): generation_seconds(
                models,
                batch=batch,
                prompt_tokens=config.prompt_tokens,
                new_tokens=config.new_tokens,
                repeats=config.speed_repeats,
            )
            for batch in config.speed_batches
        }
        speeds += [{batch: rows[number] for batch, rows in by_batch.items()} for number in range(len(group))]
        del models
        gc.collect()
    return speeds


def _size(source: str, model: Any) -> int:
    """Bytes of the weight files, where they lie in a folder; else of the loaded weights, if there are any."""
    if Path(source).is_dir():
        return weight_bytes(Path(source))
    return sum(p.numel() * p.element_size() for p in model.parameters()) if model is not None else 0
