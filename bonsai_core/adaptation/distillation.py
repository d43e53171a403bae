"""The teacher of an adaptation: loaded, checked, and stored if the settings say so."""

from __future__ import annotations

import time
from typing import Any

import torch

from bonsai_core.adaptation.directory import AdaptDirectory
from bonsai_core.adaptation.job import AdaptJob
from bonsai_core.adaptation.measure import check_weights, passes_over, perplexity
from bonsai_core.adaptation.shared import SharedLedger
from bonsai_core.adaptation.teacher import StoredTeacher, check_teacher, share_of
from bonsai_core.errors import BonsaiError
from bonsai_core.events import Stage
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.loading.load import load_model, load_tokenizer
from bonsai_core.model.storage.memory import free_cache

CHECKED_CHARACTERS = 2000
"""Of the text, to compare the tokenizers of teacher and student on."""
LATEST_S = 90.0
"""Time after which files are seen that another machine has written; NFS remembers a directory for up to 60 seconds."""


def prepare_teacher(job: AdaptJob, directory: AdaptDirectory, ledger: SharedLedger) -> StoredTeacher | Any | None:
    """What the student is distilled from; a teacher whose predictions are stored is not kept in memory.

    Every rank computes a part of what is stored, and reads all of it.

    Raises:
        BonsaiError: it cannot be loaded, has changed, or has other tokens than the student.
    """
    name, stored = job.teacher, None
    if name is None:
        return None
    if job.teacher_shape is not None:
        stored = ledger.ranks.in_turn(lambda: _opened(job, directory))
        if ledger.ranks.share(lambda: stored.complete):
            ledger.skip(job.teacher_tokens)
            return _complete(stored, job, directory)
    ledger.begin(Stage.TEACHER, f"the teacher {name}")
    model = ledger.ranks.in_turn(lambda: _loaded(name, job, ledger))
    check_weights("teacher", model, ledger)
    passes = passes_over(model, ledger)
    perplexity(job, "teacher", passes, ledger.once)
    if job.precision == "bfloat16":
        model.to(torch.bfloat16)
    if stored is None:
        return model.requires_grad_(False)
    _store(stored, passes, job, ledger)
    del model, passes
    free_cache()
    return _complete(stored if ledger.ranks.count == 1 else _opened(job, directory), job, directory)


def _loaded(teacher: str, job: AdaptJob, ledger: SharedLedger) -> Any:
    """The teacher, checked to have the student's tokens."""
    trusted, text = job.config.trust_remote_code, job.texts[0].pieces[0].read()[:CHECKED_CHARACTERS]
    model = load_model(teacher, device=job.config.device, trust_remote_code=trusted, warn=ledger.warn)
    tokenizer = load_tokenizer(teacher, trust_remote_code=trusted)
    check_teacher(model.config, job.model_config, (tokenizer, job.tokenizer), text)
    return model


def _store(stored: StoredTeacher, passes: Passes, job: AdaptJob, ledger: SharedLedger) -> None:
    """Have this rank's part of the missing windows computed."""
    ranks, windows_WL = ledger.ranks, job.schedule.windows_WL
    missing = ranks.share(lambda: stored.missing)
    own = share_of(missing, ranks.number, ranks.count)
    ledger.skip((len(windows_WL) - sum(map(len, own))) * windows_WL.shape[1])
    stored.compute(own, passes, windows_WL, ledger.record)
    ranks.gather(None)


def _opened(job: AdaptJob, directory: AdaptDirectory) -> StoredTeacher:
    assert job.teacher_shape is not None
    return StoredTeacher(directory.teacher_path, job.teacher_shape, job.model_config.vocab_size)


def _complete(stored: StoredTeacher, job: AdaptJob, directory: AdaptDirectory) -> StoredTeacher:
    """What all ranks have stored, as soon as this one can read it.

    Raises:
        BonsaiError: it cannot.
    """
    until = time.monotonic() + LATEST_S
    while not stored.complete and time.monotonic() < until:
        time.sleep(1)
        stored = _opened(job, directory)
    if not stored.complete:
        raise BonsaiError(
            f"What the teacher said cannot be read in {directory.teacher_path} as it was written: windows "
            f"{stored.missing[0].start:,} and others are missing. Is it on a file system that all machines share? Then "
            f"resume, and they are computed again."
        )
    return stored
