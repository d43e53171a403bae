"""Who measures a run's sub-models: this process, others with the same model, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bonsai_core.engine.blocks import Partials, block_size, sum_block
from bonsai_core.engine.job import Job
from bonsai_core.engine.methods import runs_in_lockstep
from bonsai_core.engine.stored_repairs import RepairStore, StoredRepairs
from bonsai_core.engine.submodels import RepairSource
from bonsai_core.engine.worker import Settled, Worker, plan_for_workers
from bonsai_core.errors import BonsaiError
from bonsai_core.events import TokensDone
from bonsai_core.executors.crew import Crew
from bonsai_core.executors.process_crew import ProcessCrew
from bonsai_core.executors.ray_cluster import ray_cluster
from bonsai_core.model.forward.layer_totals import LayerTotals, Reader
from bonsai_core.model.forward.probe import MeasuringData
from bonsai_core.model.storage.device_name import device_name
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.rundir.ledger import IDENTITY, Ledger
from bonsai_core.rundir.versions import versions

BATCHES_EACH = 4
"""Batches that a worker gets of a draw, about: so many that a slow one does not keep the others waiting for long."""


class Workers:
    """Who measures: this process alone, unless the job spreads over others.

    These are started when they are first needed, and load the model while this process goes on.
    """

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self._job = job
        self._ledger = ledger
        self._holding = ExitStack()
        self._started: Crew | None = None
        self._settled: list[Settled] = []
        self._to_send: tuple[Settled, ...] = ()
        self._sent: dict[int, tuple[MeasuringData, Any]] = {}  # the first keeps the number its own
        self._devices: set[str] = set()

    @classmethod
    @contextmanager
    def of(cls, job: Job, ledger: Ledger) -> Iterator[Workers]:
        """Those of a run, which end with the context."""
        workers = cls(job, ledger)
        with workers._holding:
            yield workers

    def recruit(self) -> None:
        """Have the others load the model, if there are any."""
        if self._job.spreads:
            self._crew().recruit()

    def repair_store(self, scratch: TensorFiles) -> RepairStore | None:
        """Where repairs of sub-models have to be stored, if they are not used where they are computed.

        Args:
            scratch: a folder that all processes of this machine can read.
        """
        job = self._job
        if job.spreads and job.config.executor == "ray":
            return self._object_store()
        return scratch if job.spreads or not runs_in_lockstep(job.methods.metric) else None

    def settle(self, keep_U: NDArray[np.bool_], repairs: TensorFiles) -> None:
        """Take note of what a round has done to the model of this process."""
        self._sent.clear()
        if self._job.spreads:
            self._settled.append(Settled(keep_U, repairs if self._job.methods.compensator.repairs else None))

    def submodels_at_once(self, sample: MeasuringData, total: int) -> int:
        """Sub-models in a batch, of a draw of so many; the size of batches changes no number."""
        whole, most = self._job.whole_batch(sample.data), self._job.submodels_at_once(sample.data)
        if not self._job.spreads:
            return most
        fair = total / (BATCHES_EACH * max(1, self._crew().wanted() + self._takes_part))
        return min(most, max(1, round(fair / whole)) * whole)

    def values(
        self, sample: MeasuringData, batches: Sequence[NDArray[np.bool_]], repairs: RepairSource | None
    ) -> Iterator[tuple[int, list[float | None]]]:
        """(number of a batch, values of its sub-models), as they come in; None for one that is not finite.

        Args:
            batches: of keep vectors, each bool [M, U].
            repairs: what repairs the sub-models; None if they are measured as they are.
        """

        def here(number: int) -> list[float | None]:
            return self._job.bench.values(sample, batches[number], repairs)

        if not self._job.spreads:
            yield from ((number, here(number)) for number in range(len(batches)))
            return
        alive_U, store = None, None
        if isinstance(repairs, StoredRepairs):
            alive_U, store = repairs.alive_U, repairs.store
        asked = [("measure", self._state(), self._on_its_way(sample), keep_MU, alive_U, store) for keep_MU in batches]
        tokens = [len(keep_MU) * sample.data.num_tokens for keep_MU in batches]
        yield from self._answers(asked, tokens, here)

    def totals(
        self,
        windows_NT: NDArray[np.int64],
        alive_U: NDArray[np.bool_],
        readers: Mapping[str, Reader],
        *,
        counted: bool,
    ) -> dict[str, dict[int, LayerTotals]] | None:
        """What plugins read of text at all layers, summed by all workers; None where this process does that alone.

        Args:
            readers: by their roles, prior and compensator.
            counted: whether the text's tokens count as work done.
        """
        lockstep, subject = self._job.lockstep, self._job.subject
        size = block_size(lockstep, windows_NT.shape[1])
        blocks = [windows_NT[first : first + size] for first in range(0, len(windows_NT), size)]
        if not self._job.spreads or len(blocks) == 1:
            return None
        totals = {
            role: {number: LayerTotals(subject, number, reader, alive_U) for number in subject.layers_present()}
            for role, reader in readers.items()
        }
        asked = [("sum_block", self._state(), block_NT, alive_U, list(readers)) for block_NT in blocks]
        early: dict[int, Partials] = {}

        def here(number: int) -> Partials:
            return sum_block(lockstep, blocks[number], readers, alive_U, counted=counted)

        following = 0
        for number, answer in self._answers(asked, [counted * block_NT.size for block_NT in blocks], here):
            early[number] = answer
            while following in early:  # in order, whoever is first
                for role, by_layer in early.pop(following).items():
                    for layer, partial in by_layer.items():
                        totals[role][layer].include(partial)
                following += 1
        return totals

    @property
    def _takes_part(self) -> bool:
        """Whether this process measures too: the workers of a cluster leave it to decide."""
        return self._job.config.executor == "local"

    def _answers(
        self, asked: Sequence[tuple[object, ...]], tokens: Sequence[int], here: Callable[[int], Any]
    ) -> Iterator[tuple[int, Any]]:
        """Answers as they come in; tokens of those that others give are counted."""
        own = set()

        def answered_here(number: int) -> Any:
            own.add(number)
            return here(number)

        for number, answer in self._crew().answers(asked, answered_here if self._takes_part else None):
            if number in own:
                yield number, answer
                continue
            if tokens[number]:
                self._ledger.notify(TokensDone(tokens[number]))
            for note in answer.notes:
                self._ledger.warn(note)
            yield number, answer.found

    def _crew(self) -> Crew:
        """The others, started when they are first needed."""
        if self._started is None:
            self._started = self._start()
            self._holding.callback(self._started.close)
        return self._started

    def _start(self) -> Crew:
        job, config, ledger = self._job, self._job.config, self._ledger
        packages = versions(ledger.journal[IDENTITY.key]["versions"])
        if config.executor == "local":
            plans = [plan_for_workers(job, packages, device) for device in job.other_devices]
            return ProcessCrew(Worker, plans, ledger.warn, self._welcome)
        if config.ray_address is None and job.subject.device.type != "cpu":
            raise BonsaiError(
                "A private Ray cluster would have its workers on the GPU of this process, too. Leave --executor out: "
                "all GPUs of this machine are used. Or name a cluster with --ray-address."
            )
        self._holding.enter_context(ray_cluster(config.ray_address))
        from bonsai_core.executors.ray_crew import RayCrew

        plan, on_gpu = plan_for_workers(job, packages), job.subject.device.type == "cuda"
        cpus = 1 if on_gpu else plan["threads"]
        crew = RayCrew(Worker, plan, config.workers, cpus, int(on_gpu), ledger.warn, self._welcome)
        if config.ray_address is None and not crew.has_room():
            raise BonsaiError(
                f"A worker takes {cpus} CPUs and {int(on_gpu)} GPUs as Ray counts them, and this machine has fewer. "
                f"Set OMP_NUM_THREADS to fewer threads, name a cluster with --ray-address, or leave --executor out."
            )
        return crew

    def _welcome(self, device: str) -> None:
        """Say so if a worker has another kind of device than those so far."""
        if not self._devices:
            self._devices.add(device_name(self._job.subject.device))
        if device not in self._devices:
            self._devices.add(device)
            self._ledger.warn(
                f"Sub-models are measured on {' and '.join(sorted(self._devices))}: their values differ by rounding, "
                f"so another run with this seed may not measure the same."
            )

    def _state(self) -> tuple[Settled, ...]:
        """What all rounds have done to the model so far, as the others receive it."""
        for keep_U, files in self._settled[len(self._to_send) :]:
            store: RepairStore | None = files
            if files is not None and self._job.config.executor == "ray":
                store = self._object_store()
                for site in self._job.table:
                    if site.name in files:
                        store.save_repair(site.name, files.load_repair(site.name, torch.device("cpu")))
            self._to_send = (*self._to_send, Settled(keep_U, store))
        return self._to_send

    def _object_store(self) -> RepairStore:
        """Room for repairs in the cluster, which this process has to be connected with before it imports Ray."""
        self._crew()
        from bonsai_core.executors.ray_crew import RayRepairs

        return RayRepairs()

    def _on_its_way(self, sample: MeasuringData) -> Any:
        """What sub-models are measured on, as the others receive it."""
        if id(sample) not in self._sent:
            self._sent[id(sample)] = sample, self._crew().shared(sample.to(torch.device("cpu")))
        return self._sent[id(sample)][1]
