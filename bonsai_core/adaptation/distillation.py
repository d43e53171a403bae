"""The teacher of an adaptation: loaded, checked, and stored if the settings say so."""

from __future__ import annotations

from typing import Any

import torch

from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.measure import check_weights, passes_over, perplexity
from bonsai_core.adaptation.teacher import StoredTeacher, check_teacher
from bonsai_core.events import Stage
from bonsai_core.model.loading.load import load_model, load_tokenizer
from bonsai_core.model.storage.memory import free_cache
from bonsai_core.rundir.ledger import Ledger

CHECKED_CHARACTERS = 2000
"""Of the text, to compare the tokenizers of teacher and student on."""


def prepare_teacher(job: AdaptJob, directory: AdaptDirectory, ledger: Ledger) -> StoredTeacher | Any | None:
    """What the student is distilled from; a teacher whose predictions are stored is not kept in memory.

    Raises:
        BonsaiError: it cannot be loaded, has changed, or has other tokens than the student.
    """
    if job.teacher is None:
        return None
    stored = None
    if job.teacher_shape is not None:
        stored = StoredTeacher(directory.teacher_path, job.teacher_shape, job.model_config.vocab_size)
        if stored.complete:
            ledger.skip(job.teacher_tokens)
            return stored
    ledger.begin(Stage.TEACHER, f"the teacher {job.teacher}")
    trusted, text = job.config.trust_remote_code, job.texts[0].pieces[0].read()[:CHECKED_CHARACTERS]
    model = load_model(job.teacher, device=job.config.device, trust_remote_code=trusted, warn=ledger.warn)
    tokenizer = load_tokenizer(job.teacher, trust_remote_code=trusted)
    check_teacher(model.config, job.model_config, (tokenizer, job.tokenizer), text)
    check_weights("teacher", model, ledger)
    passes = passes_over(model, ledger)
    perplexity(job, "teacher", passes, ledger)
    if job.precision == "bfloat16":
        model.to(torch.bfloat16)
    if stored is None:
        return model.requires_grad_(False)
    stored.compute(passes, job.schedule.windows_WL, ledger)
    del model, passes
    free_cache()
    return stored
