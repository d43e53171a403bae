"""What a round's prior and compensator receive: totals over the prior's windows, in as few passes as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.contracts import (
    Compensator,
    InputCompensator,
    InputPrior,
    LayerPrior,
    MomentCompensator,
    MomentPrior,
    Prior,
)
from bonsai_core.engine.job import Job
from bonsai_core.model.forward.moments import collect_moments
from bonsai_core.model.forward.statistics import input_totals
from bonsai_core.model.storage.tensor_files import TensorFiles
from bonsai_core.units import Site


class RoundStatistics:
    """Statistics of the model as a round finds it, which must not change while they are asked for.

    Args:
        job: the run's.
        windows_NT: the prior's windows, int64 [windows, sequence].
        alive_U: the units alive, bool [U].
        files: where second moments are stored.
    """

    def __init__(
        self,
        job: Job,
        windows_NT: NDArray[np.int64],
        alive_U: NDArray[np.bool_],
        files: TensorFiles,
    ) -> None:
        self._subject = job.subject
        self._passes = job.passes
        self._windows_NT = windows_NT
        self._alive_U = alive_U
        self._moments: _Moments | None = None
        self._files = files

    @property
    def num_tokens(self) -> int:
        """Tokens behind all totals."""
        return self._windows_NT.size

    def totals(self, reader: Prior | Compensator) -> Mapping[str, Tensor]:
        """By site name, what a prior or compensator reads of the text; nothing for one that needs weights alone."""
        if isinstance(reader, InputPrior | LayerPrior | InputCompensator):
            return input_totals(self._subject, self._passes, reader, self._windows_NT, self._alive_U)
        if not isinstance(reader, MomentPrior | MomentCompensator):
            return {}
        if self._moments is None:
            files = self._files

            def keep(site: Site, moments: Tensor) -> None:
                files.save(site.name, moments=moments)

            collect_moments(self._subject, self._passes, self._windows_NT, self._alive_U, keep)
            names = [s.name for s in self._subject.sites_present() if self._alive_U[s.units].any()]
            self._moments = _Moments(files, names, self._subject.device)
        return self._moments


class _Moments(Mapping[str, Tensor]):
    """Second moments by site name, read from disk one at a time."""

    def __init__(self, files: TensorFiles, names: list[str], device: torch.device) -> None:
        self._files = files
        self._names = names
        self._device = device

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._files.load(name, self._device)["moments"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
