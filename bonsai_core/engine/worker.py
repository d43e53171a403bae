"""A worker: another process with the model, which measures sub-models and sums statistics for the one that decides."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from bonsai_core.config import RunConfig
from bonsai_core.engine.blocks import sum_block
from bonsai_core.engine.job import Job
from bonsai_core.engine.methods import choose_methods
from bonsai_core.engine.setup import open_subject
from bonsai_core.engine.stored_repairs import RepairStore, StoredRepairs, apply_repairs
from bonsai_core.engine.submodels import Bench
from bonsai_core.errors import BonsaiError, shortened
from bonsai_core.model.forward.chunks import Chunks
from bonsai_core.model.forward.lockstep import Lockstep
from bonsai_core.model.forward.passes import Passes
from bonsai_core.model.forward.probe import MeasuringData
from bonsai_core.model.loading.load import load_tokenizer
from bonsai_core.model.loading.parent import find_parent
from bonsai_core.model.storage.device_name import device_name
from bonsai_core.model.storage.memory import return_large_blocks
from bonsai_core.registry.registry import Registry
from bonsai_core.rundir.versions import other_versions
from bonsai_core.upstream import keep_processes_that_grow


class Settled(NamedTuple):
    """What a finished round did to the model: the units left, bool [U], and the repairs by site, if there are any."""

    keep_U: NDArray[np.bool_]
    repairs: RepairStore | None


def plan_for_workers(job: Job, versions: Mapping[str, str], device: str | None = None) -> dict[str, Any]:
    """All that a worker needs to get ready, as plain data.

    Args:
        versions: of the packages that the run was started with.
        device: of this worker; None for one of the kind that this process uses.
    """
    lockstep = job.lockstep
    return {
        "versions": dict(versions),
        "config": job.config.model_dump(mode="json"),
        "device": device or job.subject.device.type,
        "threads": torch.get_num_threads(),
        "model": job.fingerprint,
        "chunk_tokens": lockstep.chunk_tokens,
        "batch_tokens": lockstep.batch_tokens,
        "slices_between_rounds": job.slices_between_rounds,
        "repairs_dense": job.repairs_dense,
    }


class Answer(NamedTuple):
    """What a worker found, and what the user should know."""

    found: Any
    notes: tuple[str, ...]


class Worker:
    """Answers questions about a model that it loads once; what it is asked twice, it answers twice alike.

    Args:
        plan: see `plan_for_workers`.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self._settled = 0  # rounds
        self._notes: list[str] = []
        self._refusal: BonsaiError | None = None
        logging.disable_progress_bar()
        return_large_blocks()
        keep_processes_that_grow()
        try:
            self._load()
        except Exception as error:  # told in answer to `about`: an actor whose constructor raises only dies
            words = str(error) if isinstance(error, BonsaiError) else f"{type(error).__name__}: {error}"
            self._refusal = BonsaiError(f"The one on {socket.gethostname()}: {shortened(words)}")

    def _load(self) -> None:
        plan = self._plan
        if different := other_versions(plan["versions"]):
            raise BonsaiError(f"It has {different}. Workers need the versions of the process that starts the run.")
        torch.set_num_threads(plan["threads"])
        config = RunConfig.from_mapping({**plan["config"], "device": plan["device"]}, "the settings of the run")
        registry = Registry()
        self._methods = choose_methods(config, registry)
        parent = find_parent(config, registry, warn=_ignore)
        tokenizer = load_tokenizer(parent.source, trust_remote_code=config.trust_remote_code)
        self._subject, _ = open_subject(parent, config, _ignore)
        if self._subject.storage.fingerprint() != plan["model"]:
            raise BonsaiError(f"{config.model} has other weights here than where the run was started.")
        chunks = Chunks(plan["chunk_tokens"], self._notes.append)
        self._lockstep = Lockstep(self._subject, chunks, plan["batch_tokens"])
        self._bench = Bench(self._methods.metric, tokenizer, Passes(self._subject.model, chunks), self._lockstep)

    def about(self) -> str:
        """The name of its device, once it is ready.

        Raises:
            BonsaiError: it cannot take part.
        """
        if self._refusal is not None:
            raise self._refusal
        return device_name(self._subject.device)

    def measure(
        self,
        settled: Sequence[Settled],
        sample: MeasuringData,
        keep_MU: NDArray[np.bool_],
        alive_U: NDArray[np.bool_],
        repairs: RepairStore | None,
    ) -> Answer:
        """The metric's values of some sub-models, bool [M, U]; None for one that is not finite.

        Args:
            settled: the rounds before this one.
            alive_U: the units alive, bool [U].
            repairs: what repairs the sub-models; None if they are measured as they are.
        """
        self._settle(settled)
        source = None if repairs is None else StoredRepairs(self._subject, alive_U, repairs)
        return self._answer(self._bench.values(sample.to(self._subject.device), keep_MU, source))

    def sum_block(
        self,
        settled: Sequence[Settled],
        windows_NT: NDArray[np.int64],
        alive_U: NDArray[np.bool_],
        roles: Sequence[str],
    ) -> Answer:
        """What a block of windows adds to the statistics of the plugins in some roles: prior, compensator."""
        self._settle(settled)
        readers = {role: getattr(self._methods, role) for role in roles}
        return self._answer(sum_block(self._lockstep, windows_NT, readers, alive_U, counted=False))

    def _answer(self, found: Any) -> Answer:
        """With what has been noted since the last one."""
        notes = tuple(f"A worker on {socket.gethostname()}: {note}" for note in self._notes)
        self._notes.clear()
        return Answer(found, notes)

    def _settle(self, settled: Sequence[Settled]) -> None:
        """Do to the model what rounds did that have been finished since it was asked last."""
        for keep_U, repairs in settled[self._settled :]:
            if repairs is not None:
                apply_repairs(self._subject, repairs, keep_U, of_dense=self._plan["repairs_dense"])
            if self._plan["slices_between_rounds"]:
                self._subject.slice(keep_U)
            self._settled += 1


def _ignore(text: str) -> None:
    """What is worth a warning, the process that started the run has said."""
