"""The models of an evaluation, and what each is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bonsai_core.errors import BonsaiError
from bonsai_core.evaluation.config import EvalConfig
from bonsai_core.model.loading.checked_config import checked_config
from bonsai_core.model.loading.input_limits import check_positions, check_tokens, start_token
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.lookup import declared_family, find_source, model_config
from bonsai_core.model.loading.provenance import Provenance, find_provenance
from bonsai_core.registry.registry import Registry
from bonsai_core.sources import Question, Text, draw_questions, evaluation_windows
from bonsai_core.sources.choices import Row


@dataclass(frozen=True)
class Candidate:
    """A model to be measured, and what it is measured on, in its own tokens.

    Attributes:
        name: what the user calls it.
        config: as `checked_config` reads it.
        windows_NL: of the text, int64.
        questions: per task.
    """

    name: str
    source: str
    config: Any
    is_dense: bool
    tokenizer: Any
    windows_NL: NDArray[np.int64]
    questions: dict[str, list[Question]]

    def token_ids(self) -> Iterator[NDArray[np.int64]]:
        """All that go through the model, int64 of any shape."""
        yield self.windows_NL
        yield from (ids for task in self.questions.values() for question in task for ids in question.sequences)


def find_candidates(
    config: EvalConfig, registry: Registry, text: Text, rows: Mapping[str, Sequence[Row]], warn: Callable[[str], None]
) -> list[Candidate]:
    """All models to be measured, the dense one first, with windows of a text and questions per task; none is loaded.

    Raises:
        BonsaiError: there is no such model, or its limit of positions is too low for the windows.
    """
    candidates: list[Candidate] = []
    named = _named(config, warn)
    slicers = _slicers(provenance for _, provenance, _ in named)
    for name, provenance, is_dense in named:
        source = find_source(provenance.source)
        own_config = checked_config(source, config.trust_remote_code, warn)
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        family = declared_family(own_config, registry, slicers.get(provenance.source), warn)
        start = start_token(family, tokenizer)
        warn_once = warn if not candidates else lambda message: None
        windows_NL = evaluation_windows(text, tokenizer, config, warn_once, start)
        questions = {}
        for task, own in rows.items():
            number, seed = config.limit or len(own), config.seed
            questions[task] = draw_questions(
                own, tokenizer, num_questions=number, seed=seed, draw=0, warn=warn_once, start=start
            )
        check_positions(own_config, family, config.eval_sequence_length, warn)
        candidate = Candidate(name, source, own_config, is_dense, tokenizer, windows_NL, questions)
        check_tokens(own_config, tokenizer, candidate.token_ids())
        candidates.append(candidate)
    if any(not np.array_equal(one.windows_NL, candidates[0].windows_NL) for one in candidates):
        warn("The models do not have the same tokens, so their perplexities cannot be compared.")
    return candidates


def _named(config: EvalConfig, warn: Callable[[str], None]) -> list[tuple[str, Provenance, bool]]:
    """(name, where it is, whether it is the dense one) of all models, the dense one first."""
    models = [(name, find_provenance(name), False) for name in dict.fromkeys(config.models)]
    dense = config.dense
    if dense == "auto":
        parents = list(dict.fromkeys(provenance.dense for _, provenance, _ in models if provenance.dense is not None))
        if len(parents) > 1:
            warn(f"The models come from different dense ones ({', '.join(parents)}); the first is beside them.")
        dense = parents[0] if parents else "none"
        if dense != "none":
            try:
                model_config(find_source(dense), config.trust_remote_code)
            except BonsaiError as error:
                warn(f"The dense model {dense} is not beside them, because it cannot be loaded: {error}")
                return models
    if dense == "none":
        if config.dense != "none":
            warn("No dense model is beside them: --dense names one.")
        return models
    provenance = find_provenance(dense)
    others = [row for row in models if not _same(row[1].source, provenance.source)]
    return [(dense, provenance, True), *others]


def _slicers(provenances: Iterable[Provenance]) -> dict[str, str]:
    """By source, the slicers that pruned models were made with, for those models and their dense ones."""
    slicers: dict[str, str] = {}
    for provenance in provenances:
        slicer = provenance.setting("slicer")
        if slicer is not None:
            slicers[provenance.source] = slicer
            if provenance.dense is not None:
                with suppress(BonsaiError):  # a dense model that cannot be found is not evaluated either
                    slicers.setdefault(find_provenance(provenance.dense).source, slicer)
    return slicers


def _same(one: str, other: str) -> bool:
    first, second = Path(find_source(one)), Path(find_source(other))
    return first == second or (first.is_dir() and second.is_dir() and first.samefile(second))
