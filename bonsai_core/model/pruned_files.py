"""The tensors of a pruned model, each made from the parent's file when it is asked for."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bonsai_core.model.storage.weight_files import WeightFiles
from bonsai_core.model.structure.layer_count import set_layers
from bonsai_core.model.subject import Subject


class PrunedFiles:
    """What slicing a model by a keep vector, with its repairs, would leave.

    Args:
        subject: the model, which is not sliced.
        files: the dense model's weights on disk.
        keep_U: units kept, bool [U].

    Attributes:
        config: of the pruned model; its sizes are still the dense ones.
    """

    def __init__(self, subject: Subject, files: WeightFiles, keep_U: NDArray[np.bool_]) -> None:
        self._subject = subject
        self._files = files
        self._keep_U = keep_U
        stay = [n for n in subject.layers_present() if subject.table.layer_stays(n, keep_U)]
        self.config = copy.deepcopy(subject.model.config)
        self.config.dtype = files.dtype
        set_layers(self.config, stay)
        self._number = {f"{subject.family.layers}.{position}.": number for position, number in enumerate(stay)}

    def tensor_of(self, name: str) -> Tensor | None:
        """The tensor that goes under a name of the pruned model; None where there is none."""
        prefix = next((prefix for prefix in self._number if name.startswith(prefix)), None)
        if prefix is None:
            return self._load(name)
        number, path = self._number[prefix], name.removeprefix(prefix)
        for site in self._subject.sites_of_layer(number):
            keep = self._keep_U[site.site.units]
            if site.cuts(path, keep):
                return site.cut(path, keep)
        return self._load(f"{self._subject.family.layers}.{number}.{path}")

    def _load(self, name: str) -> Tensor | None:
        return self._files.load(name) if name in self._files else None
