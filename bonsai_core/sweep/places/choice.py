"""Which place a sweep's runs are executed in, by what the command and the file say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bonsai_core.errors import BonsaiError, shown
from bonsai_core.registry.registry import Registry
from bonsai_core.sweep.places.in_process import InProcess
from bonsai_core.sweep.places.place import Place
from bonsai_core.sweep.places.processes import Processes
from bonsai_core.sweep.places.ray_tasks import RayTasks
from bonsai_core.sweep.spec import MOST, SweepSpec


@dataclass(frozen=True)
class Where:
    """What the command says; None: nothing.

    Attributes:
        jobs: runs at a time on this machine.
        ray_address: as for `ray_cluster`.
        num_cpus, num_gpus: that a run takes on a Ray cluster, instead of what the sweep's file says.
    """

    executor: Literal["local", "ray"] = "local"
    jobs: int | None = None
    ray_address: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None

    def place(self, spec: SweepSpec, registry: Registry) -> Place:
        """The place that it names.

        Raises:
            BonsaiError: the options do not go together.
        """
        self._check_numbers()
        if self.executor == "ray":
            if self.jobs is not None:
                raise BonsaiError(
                    "--jobs is for --executor local. On a Ray cluster as many runs go on as have room: --num-cpus and "
                    "--num-gpus say what a run takes."
                )
            num_cpus = spec.num_cpus if self.num_cpus is None else self.num_cpus
            return RayTasks(
                self.ray_address, num_cpus, spec.num_gpus if self.num_gpus is None else self.num_gpus, registry
            )
        for option in ("ray_address", "num_cpus", "num_gpus"):
            if getattr(self, option) is not None:
                raise BonsaiError(f"--{option.replace('_', '-')} is for --executor ray; --jobs is for this machine.")
        return InProcess(registry) if self.jobs in (None, 1) else Processes(self.jobs or 1, registry)

    def _check_numbers(self) -> None:
        if self.jobs is not None and not 1 <= self.jobs <= MOST:
            raise BonsaiError(f"--jobs {shown(self.jobs)}: give a number of runs from 1 to {MOST:,}.")
        for option, number in (("--num-cpus", self.num_cpus), ("--num-gpus", self.num_gpus)):
            if number is not None and not 0 <= number <= MOST:
                raise BonsaiError(f"{option} {number:g}: give a number from 0 to {MOST:,}.")
